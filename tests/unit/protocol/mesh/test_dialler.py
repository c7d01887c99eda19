"""Peers of the mesh that are dialled: when again, and what is told of a failure."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from capamesh.protocol.identity import Identity
from capamesh.protocol.mesh.dial_failures import (
    MOST_CHARS,
    MOST_ERRORS,
    SOMEBODY_ELSE,
    reason_of_failure,
)
from capamesh.protocol.mesh.dialer import Dialler


class FakeConnection:
    is_closed = False


class FakeHost:
    """A host whose one peer is there or not, as the test says; notes when it was dialled."""

    def __init__(self) -> None:
        self.is_there = False
        self.dial_s = 0.0
        """How long a dial takes that fails."""
        self.at_s: list[float] = []
        self.connection: FakeConnection | None = None

    async def connect(self, _: object) -> None:
        self.at_s.append(trio.current_time())
        if self.is_there:
            self.connection = FakeConnection()
            return
        await trio.sleep(self.dial_s)
        raise OSError("refused")

    def leave(self) -> None:
        self.is_there = False
        self.connection = None

    def get_connections(self, _: object) -> list[FakeConnection]:
        return [] if self.connection is None else [self.connection]

    def get_network(self) -> FakeHost:
        return self

    get_peerstore = get_network

    def get_id(self) -> str:
        return "this one"

    def clear_addrs(self, _: object) -> None: ...

    unblock_peer = clear_addrs


def dialling(scenario: Callable[[FakeHost], Awaitable[None]]) -> None:
    """Run a scenario while one peer is kept connected."""
    peer = Identity.generate().peer_id

    async def run() -> None:
        host: Any = FakeHost()
        async with trio.open_nursery() as nursery:
            dialler = Dialler(host, nursery, is_refused=lambda _: False, warn=lambda *_, **__: None)
            dialler.add([f"/ip4/127.0.0.1/tcp/4001/p2p/{peer}"])
            await scenario(host)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("away_s", [12.0, 25.0, 500.0])
@pytest.mark.parametrize("life_s", [1.0, 60.0], ids=["short-lived", "lasting"])
def test_peer_that_was_connected_is_found_within_a_second_however_long_it_was_away(
    away_s: float, life_s: float
) -> None:
    async def scenario(host: FakeHost) -> None:
        for _ in range(4):
            host.is_there = True
            await trio.sleep(life_s + 1.0)
            assert host.connection is not None
            host.leave()
            await trio.sleep(away_s)
            host.is_there = True
            await trio.sleep(1.0)
            assert host.connection is not None

    dialling(scenario)


@pytest.mark.parametrize(
    ("there_s", "dial_s", "since_s", "until_s", "wait_s"),
    [
        (0.0, 0.0, 0.0, 600.0, (15.0, 30.0)),  # never there: two dials a minute, or three
        (30.0, 0.0, 30.0, 620.0, (0.0, 1.0)),
        (30.0, 0.0, 650.0, 1220.0, (15.0, 600.0)),  # it left long ago: as if it had never been
        (30.0, 5.0, 30.0, 150.0, (20.0, 120.0)),  # it fails late, without a refusal
    ],
)
def test_peer_that_is_away_is_dialled_by_how_long_it_is_and_how_dials_fail(
    there_s: float, dial_s: float, since_s: float, until_s: float, wait_s: tuple[float, float]
) -> None:
    async def scenario(host: FakeHost) -> None:
        host.is_there = there_s > 0
        await trio.sleep(there_s)
        host.leave()
        host.dial_s = dial_s
        await trio.sleep(until_s - there_s)
        times = [at_s for at_s in host.at_s if at_s >= since_s]
        longest_s = max(after - before for before, after in itertools.pairwise(times))
        assert wait_s[0] <= longest_s <= wait_s[1]
        assert there_s > 0 or len(times) < 50

    dialling(scenario)


class _AllFailedError(Exception):
    """An error of several others, as libp2p has it."""

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__("all failed")
        self.errors = errors


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def _of_all(error: Exception) -> Exception:
    """Return an error as libp2p has it where all attempts failed."""
    attempt = _caused(Exception("s"), error)
    return _caused(Exception("unable to connect"), _AllFailedError([attempt]))


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Error connecting to ('127.0.0.1', 9)")


NOT_A_MEMBER = "it did not answer as a member does"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        # the operating system's, however deep it lies
        (_of_all(_caused(OSError("all"), ExceptionGroup("all", [REFUSED]))), "connection refused"),
        # without one, the innermost error's words
        (_caused(Exception("outside"), ValueError("a \x1b[2Jpeer")), "a \ufffd[2Jpeer"),
        (_of_all(Exception("peer id does not correspond to the received pubkey")), SOMEBODY_ELSE),
        (socket.gaierror(socket.EAI_NONAME, "Name not known"), "name not known"),
        (Exception(), NOT_A_MEMBER),
        (Exception(" "), NOT_A_MEMBER),
    ],
)
def test_reason_of_a_failure_is_its_root_s(error: Exception, reason: str) -> None:
    assert reason_of_failure(error) == reason


def test_reason_is_short_and_errors_that_hold_each_other_end() -> None:
    first, second = Exception("x" * 1000), Exception("y" * 1000)
    first.__cause__, second.__cause__ = second, first
    assert reason_of_failure(first) == "y" * MOST_CHARS
    deep = Exception("last")
    for number in range(2 * MOST_ERRORS):
        deep = _caused(Exception(str(number)), deep)
    assert reason_of_failure(deep) == str(MOST_ERRORS)
