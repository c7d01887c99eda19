"""The channel to a child: its frames, its streams, and when it is started again."""

from __future__ import annotations

import struct
from functools import partial

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.channel.backoff import Backoff, RestartPolicy, SilenceWatch
from capamesh.protocol.channel.framing import MAX_MESSAGE_BYTES, Decoder, encode
from capamesh.protocol.errors import ProtocolViolation, TooLarge
from capamesh.protocol.msgpack_codec import unpack_strictly

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
messages = st.builds(
    lambda fields, kind: {**fields, "type": kind},
    st.dictionaries(st.text(), values, max_size=4),
    st.text(),
)


def frame(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def test_frame_is_a_little_endian_length_and_a_msgpack_map() -> None:
    assert encode({"type": "ping"}) == b"\x0b\x00\x00\x00\x81\xa4type\xa4ping"


@given(st.lists(messages, max_size=5), st.data())
def test_messages_come_back_in_order_however_the_stream_is_cut(
    sent: list[dict[str, object]], data: st.DataObject
) -> None:
    stream = b"".join(encode(message) for message in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    decoder = Decoder()
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == sent


@given(st.binary(max_size=200))
def test_junk_raises_only_a_protocol_violation(junk: bytes) -> None:
    for decoder in (Decoder(), Decoder(100, partial(unpack_strictly, max_array_items=4))):
        try:
            decoder.feed(frame(junk))
            decoder.feed(junk)
        except ProtocolViolation:
            pass


def test_body_that_is_no_message_is_named_and_none_such_is_sent() -> None:
    for body, complaint in (
        (b"\xc1", "not msgpack"),
        (msgpack.packb({"type": 7}), 'needs a "type" string'),
        (msgpack.packb({"type": "a"}) + b"\x00", "not msgpack"),
        (b"\x91" * 5000, "not msgpack"),
        (msgpack.packb({1: "a"}), "not msgpack"),
    ):
        with pytest.raises(ProtocolViolation, match=complaint):
            Decoder().feed(frame(body))
    for message in (
        {},
        {"type": None},
        {"type": 3},
        *[{"type": "a", "x": x} for x in (object(), 2**64)],
    ):
        with pytest.raises(ProtocolViolation):
            encode(message)


def test_length_over_the_limit_is_refused_at_its_last_byte_before_any_body() -> None:
    decoder = Decoder()
    header = struct.pack("<I", MAX_MESSAGE_BYTES + 1)
    assert decoder.feed(header[:3]) == []
    with pytest.raises(ProtocolViolation, match="16777217 bytes was announced, the limit is"):
        decoder.feed(header[3:])
    overhead = len(encode({"type": "d", "data": b"x" * 70_000})) - 4 - 70_000
    largest = {"type": "d", "data": bytes(MAX_MESSAGE_BYTES - overhead)}
    assert Decoder().feed(encode(largest)) == [largest]
    with pytest.raises(TooLarge, match="16777217 bytes, the limit is 16777216"):
        encode({"type": "d", "data": bytes(MAX_MESSAGE_BYTES - overhead + 1)})
    body = msgpack.packb({"type": "x" * 10})  # one of strangers is lower
    assert Decoder(len(body)).feed(frame(body)) == [{"type": "x" * 10}]
    with pytest.raises(ProtocolViolation):
        Decoder(len(body) - 1).feed(frame(body))


def test_any_message_clears_the_silence() -> None:
    watch = SilenceWatch(ping_every_s=1, start_limit_s=60, silent_limit_s=2)
    watch.heard()
    assert [watch.pinged(), watch.pinged()] == [False, False]
    watch.heard()
    assert [watch.pinged(), watch.pinged(), watch.pinged()] == [False, False, True]


def test_waits_double_up_to_the_most_and_begin_again_after_a_long_run() -> None:
    backoff = Backoff(RestartPolicy(first_s=0.2, factor=2, most_s=1.0, stable_after_s=30))
    waits = [backoff.failed(ran_s) for ran_s in (0, 0, 0, 0, 29.9, 30.0, 0)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0, 0.2, 0.4])
