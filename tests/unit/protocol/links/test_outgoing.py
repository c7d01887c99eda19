from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capamesh.protocol.links.frames import END, HEADER, FrameKind
from capamesh.protocol.links.outgoing import SMALL_BYTES, Outgoing

CHUNK = 1000
ASK = FrameKind.REQUEST
BIG = SMALL_BYTES + 1


def frames(data: bytes) -> list[tuple[int, int, int, bytes, bytes]]:
    """Return kind, stream, flags, metadata and body of each frame."""
    found = []
    while data:
        payload, meta_bytes, _, stream, kind, flags, _ = HEADER.unpack_from(data)
        end = HEADER.size + payload
        body_at = HEADER.size + meta_bytes
        found.append((kind, stream, flags, data[HEADER.size : body_at], data[body_at:end]))
        data = data[end:]
    return found


def sent(outgoing: Outgoing, budget: int = 1 << 30) -> list[tuple[int, int, int, bytes, bytes]]:
    return frames(b"".join(outgoing.take(budget)))


@pytest.mark.parametrize("taken", [0, 1])
def test_dropped_stream_sends_no_more_parked_or_not(taken: int) -> None:
    outgoing = Outgoing(CHUNK)
    outgoing.message(ASK, 1, b"", [bytes(BIG)], BIG, 0, 500)
    outgoing.message(ASK, 1, b"", [bytes(BIG)], BIG, 0, 500)
    outgoing.message(ASK, 3, b"", [bytes(BIG)], BIG, 0, BIG)
    for _ in range(taken):
        outgoing.take(1)
    outgoing.drop(1)
    outgoing.drop(1)
    outgoing.grant(1, 10**6)
    assert outgoing.queued_bytes == BIG
    assert {frame[1] for _ in range(99) for frame in sent(outgoing)} == {3}
    assert (bool(outgoing), outgoing.queued_bytes) == (False, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.lists(
        st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([0, 1, 900, BIG, 40_000])), max_size=6
    ),
)
def test_every_body_arrives_whole_within_its_credit(
    seed: int, messages: list[tuple[int, int]]
) -> None:
    rng = random.Random(seed)
    outgoing = Outgoing(8000)
    expected: dict[int, list[bytes]] = {}
    for stream, size in messages:
        body = rng.randbytes(size)
        cut = rng.randint(0, size)
        outgoing.message(
            ASK,
            stream,
            b"m" * (size % 7),
            [body[:cut], body[cut:]],
            size,
            0,
            rng.randint(0, 50_000),
        )
        expected.setdefault(stream, []).append(body)
    got: dict[int, list[bytes]] = {}
    for _ in range(200):
        for kind, stream, flags, _, body in sent(outgoing, rng.randint(1, 50_000)):
            assert len(body) <= 16 * 1024
            if kind == ASK:
                got.setdefault(stream, []).append(b"")
            got[stream][-1] += body
            if flags & END:
                done = len(got[stream]) - 1
                assert got[stream][done] == expected[stream][done]
        for stream in (1, 3, 5):
            if rng.random() < 0.7:
                outgoing.grant(stream, rng.randint(1, 10_000))
    assert got == expected
    assert (bool(outgoing), outgoing.queued_bytes) == (False, 0)
