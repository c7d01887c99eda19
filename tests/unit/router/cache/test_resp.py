"""The protocol of a shared store: replies, however they come in pieces, and all that is none."""

from __future__ import annotations

import random

import pytest

from capamesh.protocol.errors import ProtocolViolation
from capamesh.router.cache.resp import MOST_LINE_BYTES, Replies, Reply, command

NONE = Reply(None, "")
STREAM = b"+OK\r\n$-1\r\n$5\r\nhe\r\no\r\n:12\r\n-ERR no\r\n$0\r\n\r\n"
REPLIES = [NONE, NONE, Reply(b"he\r\no", ""), NONE, Reply(None, "ERR no"), Reply(b"", "")]


def test_command_is_an_array_of_strings() -> None:
    assert command(b"SET", b"k", b"\r\n") == b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_replies_are_read_however_they_are_cut(size: int) -> None:
    replies = Replies(5)
    found: list[Reply] = []
    for at in range(0, len(STREAM), size):
        found += replies.feed(STREAM[at : at + size])
    assert found == REPLIES


@pytest.mark.parametrize(
    ("junk", "text"),
    [
        (b"*1\r\n", "begins with b'\\*'"),
        (b"\r\n", r"begins with b'\\r'"),
        (b"HTTP/1.1 400 Bad Request\r\n", "begins with b'H'"),
        (b"$6\r\n", "has 6 bytes; the limit is 5"),
        (b"$99999999999\r\n", "has b'99999999999' bytes"),
        (b"$-2\r\n", "has b'-2' bytes"),
        (b"$--1\r\n", "has b'--1' bytes"),
        (b"$ 1\r\n", "has b' 1' bytes"),
        (b"$\r\n", "has b'' bytes"),
        (b"$2\r\nabcd", "does not end where it says"),
        (b"+" + b"x" * MOST_LINE_BYTES, "has no end"),
        (b"\0" * 300_000, "has no end"),
    ],
)
def test_junk_of_each_kind_is_a_violation_that_says_why(junk: bytes, text: str) -> None:
    with pytest.raises(ProtocolViolation, match=text):
        Replies(5).feed(b"+OK\r\n" + junk)


def test_line_without_an_end_is_a_violation_before_it_is_kept() -> None:
    replies = Replies(5)
    for _ in range(MOST_LINE_BYTES - 1):
        assert replies.feed(b"x") == []
    with pytest.raises(ProtocolViolation):
        replies.feed(b"x")


@pytest.mark.parametrize("seed", range(20))
def test_junk_is_a_violation_or_replies_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        bad = bytearray(STREAM)
        for _ in range(rng.randrange(1, 5)):
            bad[rng.randrange(len(bad))] = rng.choice(b"\r\n$+-:*019x")
        replies = Replies(64)
        try:
            for each in replies.feed(bytes(bad)):
                assert each.value is None or len(each.value) <= 64
        except ProtocolViolation:
            pass
