from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.ids import PeerId
from capamesh.protocol.msgpack_codec import pack
from capamesh.router.fleet.last_fleet import MAX_AGE_MS, MAX_BYTES, MAX_NODES, LastFleet, decode

A, B = PeerId("A"), PeerId("B")


def test_nodes_and_bytes_are_bounded() -> None:
    kept = LastFleet()
    for at in range(MAX_NODES + 5):
        kept.heard(PeerId(str(at)), b"x", is_news=True)
    assert len(kept) == MAX_NODES
    kept.heard(PeerId("0"), b"x" * (MAX_BYTES - MAX_NODES + 1), is_news=True)
    assert repr(kept) == f"LastFleet({MAX_NODES} nodes, {MAX_BYTES} bytes)"
    kept.heard(PeerId("1"), b"xx", is_news=True)
    assert repr(kept) == f"LastFleet({MAX_NODES} nodes, {MAX_BYTES} bytes)"


@pytest.mark.parametrize(
    ("file", "reported"),
    [
        (b"", None),
        (b"\x93", None),
        (pack({"a": 1}), "no fleet of this version"),
        (pack([2, 1000, []]), "no fleet of this version"),
        (pack([1, 1000 - MAX_AGE_MS - 1, []]), "written 3600 s ago"),
        (pack([1, 1001 + MAX_AGE_MS, []]), "written -3600 s ago"),
        (b"x" * (MAX_BYTES * 2), "too many"),
    ],
)
def test_file_that_is_damaged_old_or_from_the_future_is_refused(
    file: bytes, reported: str | None
) -> None:
    with pytest.raises(ValueError, match=reported):
        decode(file, 1000)


@given(st.binary(max_size=200))
def test_no_junk_is_more_than_an_error_of_value(junk: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(junk, 1000)
