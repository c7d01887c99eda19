"""The course of one stream: what a client does next, from the first router that is asked to the last answer. Pure.

A client takes one step after the other and says what came of it: an error is thrown into the course, which knows whether
another router is asked, whether something is sent again, or who is told. So both clients do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from capamesh.client.failover import is_for_another, none_answered
from capamesh.client.stream_wire import DONE, StreamWire
from capamesh.client.streams import host_of
from capamesh.protocol.errors import CapameshError

if TYPE_CHECKING:
    from capamesh.client.access import Access
    from capamesh.client.address import RouterAddress
    from capamesh.client.answers import Answer, Outputs
    from capamesh.client.failover import Failover
    from capamesh.client.retries import Retries
    from capamesh.client.streams import StreamPlan, Turn

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Connect:
    """The step of connecting to a router; what it sends is given to the wire, from now on."""

    router: RouterAddress
    wire: StreamWire


@dataclass(frozen=True, slots=True)
class Send:
    """The step of sending bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Await:
    """The step of giving the wire what the router sends until `is_there` says so, for no longer than an answer may take."""

    is_there: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Pause:
    """The step of doing nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give:
    """The step of giving the caller what is answered."""

    outputs: Outputs


@dataclass(frozen=True, slots=True)
class HangUp:
    """The step of closing the connection, if there is one."""


@dataclass(frozen=True, slots=True)
class Look:
    """The step of looking for the next thing to send, which is what comes of it; `NOTHING`: there is none."""


Step: TypeAlias = Connect | Send | Await | Pause | Give | HangUp | Look
Course: TypeAlias = Generator[Step, Any, None]
"""The steps of a stream; to each is sent what came of it, which is None but for `Look`."""
NOTHING: Final = object()


def course(
    failover: Failover,
    retries: Retries,
    access: Access,
    plan: StreamPlan[Any],
    clock: Callable[[], float],
) -> Course:
    """Return the course of a stream; `clock` tells the time in seconds."""
    wire = yield from _opened(failover, retries, access, plan, clock)
    while (item := (yield Look())) is not NOTHING:
        for turn in plan.turns(wire, item):
            yield from _taken(retries, plan, wire, turn, clock)
    yield Send(wire.end())
    while (answer := (yield from _next(wire))) is not None:
        outputs = plan.last(answer, wire.url)
        if outputs is not None:
            yield Give(outputs)
    if wire.close_code != DONE:
        raise wire.closed(plan.answered)


def _opened(
    failover: Failover,
    retries: Retries,
    access: Access,
    plan: StreamPlan[Any],
    clock: Callable[[], float],
) -> Generator[Step, Any, StreamWire]:
    """Open it at the first router that takes it, later where all refuse it for now; raise what the last one said."""
    began_s, rounds = clock(), 0
    while True:
        errors: list[CapameshError] = []
        for router in failover.order(clock()):
            wire = StreamWire(router.url, plan.most_bytes)
            try:
                yield Connect(router, wire)
                headers = access.with_own(plan.headers)
                path = router.prefix + plan.path
                yield Send(wire.opening(host_of(router), path, plan.query, headers))
                yield Await(partial(_is_open, wire))
            except CapameshError as error:
                errors.append(error)
                yield HangUp()
                if not is_for_another(error, is_repeatable=True):
                    break
                failover.failed(router, clock())
            else:
                failover.answered(router)
                return wire
        rounds += 1
        last = none_answered(errors)
        left_s = plan.wait_s - (clock() - began_s)
        wait_s = retries.wait_s(last, attempts=rounds, left_s=left_s, is_idempotent=False)
        if wait_s is None:
            raise last
        yield Pause(wait_s)


def _taken(
    retries: Retries,
    plan: StreamPlan[Any],
    wire: StreamWire,
    turn: Turn,
    clock: Callable[[], float],
) -> Generator[Step, Any, None]:
    """Send a turn, and take its answers; a request that was refused is sent again as others are."""
    began_s, attempts, due = clock(), 1, turn.due
    yield Send(turn.data)
    while due:
        answer = yield from _next(wire)
        if answer is None:
            raise wire.closed(plan.answered)
        try:
            outputs = turn.read(answer, wire.url)
        except CapameshError as error:
            wait_s = None
            if turn.is_repeatable:
                left_s = plan.wait_s - (clock() - began_s)
                wait_s = retries.wait_s(
                    error, attempts=attempts, left_s=left_s, is_idempotent=False
                )
            if wait_s is None:
                plan.failed(error)
                due -= 1
                continue
            attempts += 1
            yield Pause(wait_s)
            yield Send(turn.data)
            continue
        if plan.is_last(outputs):
            retries.succeeded()
            plan.answered += 1
            due -= 1
        yield Give(outputs)


def _is_open(wire: StreamWire) -> bool:
    return wire.is_open


def _next(wire: StreamWire) -> Generator[Step, Any, Answer | None]:
    """Return the next answer; None: the router has closed behind the last."""
    yield Await(lambda: wire.has_news)
    return wire.next()
