"""Header blocks, against those of the package hpack: what is decoded is what was encoded, and what is broken is told."""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKError
from http2_client import HEAD
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.router.grpc.header_blocks import (
    TABLE_BYTES,
    BadBlock,
    HeaderDecoder,
    encoded,
)
from capamesh.router.grpc.http2 import MAX_HEADER_BYTES

names = st.sampled_from(
    [b":path", b"te", b"content-type", b"x-a", b"x-" + b"n" * 130, b"grpc-timeout"]
)
values = st.one_of(st.binary(max_size=12), st.sampled_from([b"", b"/a/b", b"v" * 200, b"w" * 3000]))
fields = st.lists(st.tuples(names, values, st.booleans()), max_size=6)


@given(st.lists(st.tuples(fields, st.sampled_from([None, 0, 60, 300, TABLE_BYTES])), max_size=6))
def test_blocks_say_what_hpack_has_written(
    blocks: list[tuple[list[tuple[bytes, bytes, bool]], int | None]],
) -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder()
    for headers, table_bytes in blocks:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        block = encoder.encode(headers)
        expected = tuple((name, value) for name, value, _ in headers)
        for _ in range(1 if any(not each[2] for each in headers) else 2):
            assert decoder.decode(block).fields == expected


@given(st.lists(st.one_of(st.binary(max_size=30), st.just(encoded(HEAD))), max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_what_hpack_reads(blocks: list[bytes]) -> None:
    decoder, other = HeaderDecoder(), hpack.Decoder(MAX_HEADER_BYTES)
    for block in blocks:
        try:
            expected = tuple((bytes(name), bytes(of)) for name, of in other.decode(block, raw=True))
        except HPACKError:
            with pytest.raises(BadBlock):
                decoder.decode(block)
            return
        assert decoder.decode(block).fields == expected


@given(st.lists(st.tuples(names, values), max_size=6))
def test_blocks_that_are_written_use_no_table(headers: list[tuple[bytes, bytes]]) -> None:
    decoder = hpack.Decoder()
    headers.insert(0, (b":status", b"200"))
    for _ in range(2):
        assert decoder.decode(encoded(headers), raw=True) == headers
    assert not decoder.header_table.dynamic_entries


def test_list_that_is_too_long_is_told_apart() -> None:
    decoder = HeaderDecoder()
    decoder.decode(b"\x40\x03x-a\x7f\x81\x0e" + b"v" * 1920)
    with pytest.raises(BadBlock) as caught:
        decoder.decode(b"\xbe" * 9)
    assert caught.value.is_too_long


@pytest.mark.parametrize(
    ("headers", "is_sound"),
    [
        ([*HEAD, (b"content-length", b"12")], True),
        ([*HEAD, (b"content-length", b"12"), (b"content-length", b"12")], True),
        ([*HEAD, (b"content-length", b"12"), (b"content-length", b"13")], False),
        ([*HEAD, (b"content-length", b"-1")], False),
        ([*HEAD, (b"content-length", b"1" * 19)], False),
        ([*HEAD, (b"x", b" y")], False),
        ([*HEAD, (b"x", b"y\t")], False),
        ([*HEAD, (b"x", b"")], True),
        ([*HEAD, (b"", b"y")], False),
        ([*HEAD, (b":protocol", b"y")], False),
        ([(b":method", b"CONNECT"), (b":authority", b"a:1")], True),
        ([(b":method", b"CONNECT"), (b":authority", b"a:1"), (b":path", b"/")], False),
    ],
)
def test_heads_are_what_rfc_9113_has_them(
    headers: list[tuple[bytes, bytes]], is_sound: bool
) -> None:
    assert HeaderDecoder().decode(encoded(headers)).is_request is is_sound
