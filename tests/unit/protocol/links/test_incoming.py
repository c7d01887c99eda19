from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.links.frames import HEADER, LinkLimits
from capamesh.protocol.links.incoming import SCRATCH_BYTES, Incoming

LIMITS = LinkLimits()


class Sink:
    """Keeps each frame; gives memory for bodies but on streams of thirteen, which it discards."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, int, int, bytes, bytes | None]] = []
        self._memory: bytearray | None = None
        self._head: tuple[int, int, int, int, bytes] | None = None

    def frame_started(
        self, kind: int, flags: int, stream: int, value: int, meta: bytes, body_bytes: int
    ) -> memoryview | None:
        assert self._head is None
        self._head = (kind, flags, stream, value, meta)
        self._memory = None if stream == 13 else bytearray(body_bytes)
        return None if self._memory is None else memoryview(self._memory)

    def frame_ended(self) -> None:
        assert self._head is not None
        body = None if self._memory is None else bytes(self._memory)
        self.frames.append((*self._head, body))
        self._head = None

    def frame_received(
        self, kind: int, flags: int, stream: int, value: int, meta: bytes, body: memoryview
    ) -> None:
        kept = None if stream == 13 else bytes(body)
        self.frames.append((kind, flags, stream, value, meta, kept))


def frame(stream: int, meta: bytes, body: bytes, kind: int = 4) -> bytes:
    head = HEADER.pack(len(meta) + len(body), len(meta), 77, stream, kind, 3, 0)
    return head + meta + body


def feed(incoming: Incoming, data: bytes, sizes: random.Random | int) -> None:
    left = memoryview(data)
    while left:
        buffer = incoming.buffer()
        assert len(buffer) > 0
        step = sizes if isinstance(sizes, int) else sizes.choice([1, 7, 1000, 70_000, 1 << 20])
        count = min(len(buffer), len(left), step)
        buffer[:count] = left[:count]
        incoming.received(count)
        left = left[count:]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 13]),
            st.sampled_from([0, 5, SCRATCH_BYTES - 20, SCRATCH_BYTES + 9, 600_000]),
            st.sampled_from([0, 1, 20, 100_000, 256 * 1024]),
        ),
        max_size=5,
    ),
    st.integers(0, 2**32),
)
def test_any_sizes_cut_anywhere_arrive_whole(frames: list[tuple[int, int, int]], seed: int) -> None:
    rng = random.Random(seed)
    sink, data, expected = Sink(), b"", []
    for stream, meta_bytes, body_bytes in frames:
        meta, body = rng.randbytes(meta_bytes), rng.randbytes(body_bytes)
        data += frame(stream, meta, body)
        expected.append((4, 3, stream, 77, meta, None if stream == 13 else body))
    incoming = Incoming(LIMITS, sink)
    while data:  # one byte at a time would take all day: only heads and tails get that
        part, data = data[:150_000], data[150_000:]
        feed(incoming, part[:30], 1)
        feed(incoming, part[30:], 70_000 if rng.random() < 0.5 else 1 << 20)
    assert sink.frames == expected


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        (HEADER.pack(2**32 - 1, 0, 0, 1, 4, 0, 0), "a frame of 4294967295 bytes"),
        (HEADER.pack(101, 101, 0, 1, 4, 0, 0), "101 of metadata; at most 100"),
        (HEADER.pack(1001, 0, 0, 1, 4, 0, 0), "and 1000 of body"),
        (HEADER.pack(0, 0, 0, 1, 4, 0, 1), "reserved field is 1"),
    ],
)
def test_header_over_the_limits_is_refused_before_anything_is_taken(
    head: bytes, complaint: str
) -> None:
    sink = Sink()
    limits = dataclasses.replace(LIMITS, meta_bytes=100, chunk_bytes=1000)
    with pytest.raises(ProtocolViolation, match=complaint):
        feed(Incoming(limits, sink), head, 3)
    assert sink.frames == []
    feed(Incoming(limits, sink), frame(1, bytes(100), bytes(1000)), 1 << 20)
    assert len(sink.frames) == 1


def test_large_body_is_read_straight_into_its_own_memory() -> None:
    sink = Sink()
    incoming = Incoming(LIMITS, sink)
    feed(incoming, frame(1, b"m", bytes(100_000))[:50_000], 1 << 20)
    direct = incoming.buffer()
    assert len(direct) == HEADER.size + 1 + 100_000 - 50_000
    assert direct.obj is sink._memory


def test_scratch_grows_for_large_metadata_and_shrinks_again() -> None:
    sink = Sink()
    incoming = Incoming(LIMITS, sink)
    meta = random.Random(1).randbytes(1_000_000)
    feed(incoming, frame(1, meta, b"tail") + frame(3, b"next", b""), 60_000)
    assert [one[4] for one in sink.frames] == [meta, b"next"]
    feed(incoming, frame(5, b"", b""), 20)
    assert len(incoming._scratch) == SCRATCH_BYTES
