"""Load on a server behind a link, asked as a router asks, and what that saw. Reads the clock."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from dataclasses import dataclass
from functools import partial

from machine import cpu_s
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import ResponseHandler
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.links.link import Link, LinkHandler
from capamesh.protocol.links.transport import check_hello
from capamesh.protocol.network import Member, Membership, Role


class RouterEnd(LinkHandler):
    """A router as far as a node can see."""

    def __init__(self, membership: Membership) -> None:
        self._trust = membership.trust()

    @override
    def verify(self, hello: Hello, certificate: bytes) -> Member:
        return check_hello(self._trust, hello, certificate, dt.datetime.now(dt.UTC), role=Role.NODE)

    @override
    def link_up(self, link: Link) -> None:
        """Do nothing."""

    @override
    def link_down(self, link: Link, reason: str) -> None:
        """Do nothing."""

    @override
    def request_received(self, link: Link, stream: int, meta: bytes, body: memoryview) -> None:
        """Do nothing."""

    @override
    def request_cancelled(self, link: Link, stream: int) -> None:
        """Do nothing."""

    @override
    def load(self, meta: bytes) -> bytes:
        return b"\x80"

    @override
    def goaway_received(self, link: Link, reason: str) -> None:
        """Do nothing."""

    @override
    def read_ended(self, link: Link) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The figures of one load."""

    per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float = 0.0
    """The CPU time of the server's process for each request."""


class Caller(ResponseHandler):
    """One caller that asks again once it is answered, by callbacks as the router does: the part of `ResponseHandler` of a link."""

    def __init__(self, link: Link, meta: bytes, body: list, ends_s: float) -> None:
        self._ask = partial(link.ask, meta, body, self)
        self._ends_s = ends_s
        self._began_s = 0.0
        self.answers: list[tuple[float, float]] = []
        """The answers: the time when each was here, and the seconds it had taken."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ask(self) -> None:
        """Send a request."""
        self._began_s = time.perf_counter()
        self._ask()

    @override
    def answered(self, answer: Answer) -> None:
        del answer
        now_s = time.perf_counter()
        self.answers.append((now_s, now_s - self._began_s))
        if now_s < self._ends_s:
            self._began_s = now_s
            self._ask()
        else:
            self.done.set_result(None)

    @override
    def failed(self, error: CapameshError) -> None:
        self.done.set_exception(error)


async def load(link: Link, meta: bytes, body: list, in_flight: int, ends_s: float) -> list[Caller]:
    """Keep `in_flight` requests under way until then, on the clock of `time.perf_counter`; wait for the last."""
    callers = [Caller(link, meta, body, ends_s) for _ in range(in_flight)]
    for caller in callers:
        caller.ask()
    await asyncio.gather(*(caller.done for caller in callers))
    return callers


async def ask(
    link: Link, meta: bytes, body: list, in_flight: int, seconds: float, pid: int
) -> Seen:
    """Keep `in_flight` requests under way for so long.

    The rate is that of the answers between each caller's first and the end, all of which `in_flight` callers waited
    for: how a load begins and ends says nothing of what a server can do.
    """
    cpu_before, ends_s = cpu_s(pid), time.perf_counter() + seconds
    callers = await load(link, meta, body, in_flight, ends_s)
    used_s = cpu_s(pid) - cpu_before
    full_s = max(caller.answers[0][0] for caller in callers)
    answers = [answer for caller in callers for answer in caller.answers]
    counted = [at_s for at_s, _ in answers if full_s < at_s <= ends_s]
    if len(counted) < 2 * in_flight:
        raise SystemExit(
            f"{len(counted)} answers within {seconds:g} s are too few for {in_flight} callers: use longer --seconds"
        )
    times = sorted(took_s for _, took_s in answers)
    return Seen(
        len(counted) / (max(counted) - full_s),
        times[len(times) // 2] * 1e6,
        times[int(len(times) * 0.99)] * 1e6,
        used_s / len(times) * 1e6,
    )
