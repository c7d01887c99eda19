"""All links of a process share one room for bodies: never passed, always given back, and the oldest goes on."""

from __future__ import annotations

import random

import pytest
from link_wire import feed, hello, limits

from capamesh.protocol.errors import PeerError, ProtocolViolation
from capamesh.protocol.links.connection import Connection
from capamesh.protocol.links.events import Event, ResponseReceived
from capamesh.protocol.links.frames import FINAL, HEADER, FrameKind, LinkLimits
from capamesh.protocol.links.receive_budget import ReceiveBudget

KB = 5000
SMALL = limits(initial_credit_bytes=10 * KB, chunk_bytes=4 * KB, message_bytes=200 * KB)


class Pair:
    """A router's side, which asks, and a node's, whose bytes cross when `settle` is called."""

    def __init__(self, budget: ReceiveBudget) -> None:
        self.router = Connection(is_dialer=True, hello=hello(SMALL), limits=SMALL, budget=budget)
        node = LinkLimits(chunk_bytes=4 * KB)
        self.node = Connection(is_dialer=False, hello=hello(node), limits=node)
        self.settle()

    def step(self, budget_bytes: int = 4 * KB) -> list[Event]:
        """Carry a little both ways; return what the router was told."""
        feed(self.node, b"".join(self.router.take(budget_bytes)))
        return feed(self.router, b"".join(self.node.take(budget_bytes)))

    def settle(self) -> list[Event]:
        reported: list[Event] = []
        while self.router.has_output() or self.node.has_output():
            reported += self.step()
        return reported

    def ask(self, answer: bytes) -> int:
        stream = self.router.ask(b"")
        feed(self.node, b"".join(self.router.take(1 << 20)))
        assert self.node.respond(stream, b"", [answer])
        return stream


def sums(budget: ReceiveBudget) -> tuple[int, int, int]:
    return budget.granted_bytes, budget.first_bytes, budget.waiting


def test_large_answers_wait_for_one_another_and_all_come_whole() -> None:
    budget = ReceiveBudget(200 * KB)
    pairs = [Pair(budget) for _ in range(4)]
    answers = [random.Random(at).randbytes(90 * KB) for at in range(4)]
    for pair, answer in zip(pairs, answers, strict=True):
        pair.ask(answer)
    for pair in pairs:
        pair.step()
    assert sums(budget) == (180 * KB, 20 * KB, 2)
    got: list[list[bytes]] = [[], [], [], []]
    for _ in range(200):
        for at, pair in enumerate(pairs):
            for event in pair.step():
                assert isinstance(event, ResponseReceived)
                got[at].append(bytes(event.body))
            assert budget.granted_bytes <= budget.most_bytes
    assert got == [[answer] for answer in answers]
    assert sums(budget) == (0, 0, 0)


def test_link_that_stalls_holds_half_and_others_go_past_it() -> None:
    budget = ReceiveBudget(200 * KB)
    stalled, busy = Pair(budget), Pair(budget)
    streams = [stalled.ask(bytes(80 * KB)) for _ in range(3)]
    for _ in range(6):
        stalled.step()
    assert sums(budget) == (80 * KB, 20 * KB, 2)
    busy.ask(bytes(90 * KB))
    assert [type(event) for event in busy.settle()] == [ResponseReceived]
    for stream in streams:
        stalled.router.cancel(stream)
    assert sums(budget) == (0, 0, 0)


def test_too_many_beginnings_on_one_link_are_refused_alone() -> None:
    budget = ReceiveBudget(60 * KB)
    pair = Pair(budget)
    for _ in range(4):
        pair.ask(bytes(10 * KB))
    errors = [event.error for event in pair.settle() if not isinstance(event, ResponseReceived)]  # type: ignore[union-attr]
    assert [type(error) for error in errors] == [PeerError]
    assert "no room for an answer of 50000 bytes" in errors[0].message
    assert sums(budget) == (0, 0, 0)


def test_peer_that_sends_more_than_was_allowed_breaks_the_rules() -> None:
    budget = ReceiveBudget(200 * KB)
    holder, pair = Pair(budget), Pair(budget)
    holder.ask(bytes(200 * KB))
    holder.step()
    stream = pair.router.ask(b"")
    head = HEADER.pack(4 * KB, 0, 50 * KB, stream, FrameKind.RESPONSE, FINAL, 0)
    chunk = HEADER.pack(4 * KB, 0, 0, stream, FrameKind.CHUNK, FINAL, 0)
    assert feed(pair.router, head + bytes(4 * KB) + chunk + bytes(4 * KB)) == []
    with pytest.raises(
        ProtocolViolation, match="sent 60000 bytes of a body of 250000, of which 50000"
    ):
        feed(pair.router, chunk + bytes(4 * KB))
    pair.router.end()
    assert sums(budget) == (200 * KB, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_sums_hold_all_is_given_back_and_the_oldest_goes_on_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    budget = ReceiveBudget(400 * KB)
    pairs = [Pair(budget) for _ in range(4)]
    open_streams: list[tuple[Pair, int]] = []
    for _ in range(400):
        at = rng.randrange(len(pairs))
        pair = pairs[at]
        match rng.randrange(8):
            case 0 | 1:
                size_bytes = rng.choice([KB, 9 * KB, 30 * KB, 120 * KB, 200 * KB])
                stream = pair.router.ask(b"")
                feed(pair.node, b"".join(pair.router.take(1 << 20)))
                pair.node.respond(stream, b"", [bytes(size_bytes)])
                open_streams.append((pair, stream))
            case 2 if open_streams:
                asked, stream = rng.choice(open_streams)
                asked.router.cancel(stream)
            case 3 if rng.random() < 0.2:
                pair.router.end()
                pairs[at] = Pair(budget)
                open_streams = [one for one in open_streams if one[0] is not pair]
            case _:
                pair.step(rng.choice([4 * KB, 30 * KB]))
        assert 0 <= budget.granted_bytes <= budget.most_bytes
        assert 0 <= budget.first_bytes <= budget.most_bytes
        if budget.waiting and not budget.granted_bytes:
            raise AssertionError("somebody waits, and nobody goes on")
    for _ in range(2000):
        for pair in pairs:
            pair.step(30 * KB)
    assert sums(budget) == (0, 0, 0)
    assert all("0 asked" in repr(pair.router) for pair in pairs)
