"""Answers that routers share: nobody else's is an answer, whatever the store says, and a store that is slow is left alone."""

from __future__ import annotations

import random

import pytest
from fleet_fakes import fp32

from capamesh.protocol.errors import ConfigError, ProtocolViolation
from capamesh.protocol.ids import ModelVersion, PeerId
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.cache.breaker import LATE_IN_A_ROW, MOST_PAUSE_S, PAUSE_S, Breaker
from capamesh.router.cache.resp import MOST_LINE_BYTES, Replies, Reply, command
from capamesh.router.cache.shared import Seal
from capamesh.router.cache.store_address import address_of

KEY = bytes(range(32))
PEER = PeerId("12D3KooWpeer")
ANSWER = InferAnswer(ModelVersion("1"), (fp32("y", [1, 2]), fp32("z", [3, 4])), 5, 6, LoadReport(1))
SEAL = Seal(b"s" * 32, "net")


def value() -> bytes:
    made = SEAL.written(KEY, ANSWER, PEER, 1000.0)
    assert made is not None
    return made


@pytest.mark.parametrize("other", [Seal(b"t" * 32, "net"), Seal(b"s" * 32, "other")])
def test_value_of_another_secret_or_network_is_no_answer_and_has_another_name(other: Seal) -> None:
    assert other.read(KEY, value(), DEFAULT_LIMITS) is None
    assert other.name_of(KEY) != SEAL.name_of(KEY)


def test_every_changed_bit_is_seen() -> None:
    good = value()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        assert SEAL.read(KEY, bytes(bad), DEFAULT_LIMITS) is None, at
    for end in range(len(good)):
        assert SEAL.read(KEY, good[:end], DEFAULT_LIMITS) is None
    assert SEAL.read(KEY, good + b"\0", DEFAULT_LIMITS) is None


@pytest.mark.parametrize("seed", range(5))
def test_junk_under_the_seal_is_no_answer_and_raises_nothing(seed: int) -> None:
    """As a router of another version may have written it."""
    rng = random.Random(seed)
    good = value()[32:]
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        entry = bytes(bad[: rng.randrange(len(bad) + 1)])
        found = SEAL.read(KEY, SEAL._sealed(entry) + entry, DEFAULT_LIMITS)
        if found is not None:
            for tensor in found.answer.outputs:
                tensor.to_numpy()


def test_store_that_was_late_often_in_a_row_is_left_alone() -> None:
    breaker = Breaker()
    for _ in "ab":
        breaker.was_in_time()
        for _ in range(LATE_IN_A_ROW - 1):
            breaker.was_late(0.0)
        assert breaker.may_ask(0.0)
    breaker.was_late(0.0)
    assert breaker.is_open(0.0)
    assert not breaker.may_ask(PAUSE_S - 0.001)


def test_pauses_grow_up_to_a_bound_while_trials_are_late() -> None:
    breaker, now_s, pauses = Breaker(), 0.0, list[float]()
    for _ in range(LATE_IN_A_ROW):
        breaker.was_late(now_s)
    for _ in range(8):
        pause_s = 0.0
        while not breaker.may_ask(now_s + pause_s):
            pause_s += 0.5
        now_s += pause_s
        pauses.append(pause_s)
        breaker.was_late(now_s)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, MOST_PAUSE_S]
    breaker.was_in_time()
    for _ in range(LATE_IN_A_ROW):
        breaker.was_late(now_s)
    assert breaker.may_ask(now_s + PAUSE_S)


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


def test_url_is_read_and_its_password_never_shown() -> None:
    for url, shown in (
        ("valkey://h", "h:6379/0"),
        ("redis://h/", "h:6379/0"),
        ("rediss://u:p%40s@h:1/7", "h:1/7"),
        ("redis://[::1]:2", "::1:2/0"),
    ):
        assert repr(address_of(url)) == f"StoreAddress({shown})"


@pytest.mark.parametrize(
    "url",
    [
        *("http://h", "h:6379", "redis://", "redis://h/x", "redis://h/-1", "redis://h/1024"),
        *("redis://h/\u0661", "redis://h:p", "redis://h:0", "redis://h:99999", "redis://h?a=1"),
        *("redis://h#f", "redis://[::1", "redis://:secret@h/x"),
    ],
)
def test_url_that_is_none_is_refused_without_a_password(url: str) -> None:
    with pytest.raises(ConfigError, match="valkey://HOST:PORT/DB") as caught:
        address_of(url)
    assert "secret" not in caught.value.message
    assert caught.value.__cause__ is None
