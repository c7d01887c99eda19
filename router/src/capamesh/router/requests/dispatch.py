"""Flies requests over links: does what a `RequestAttempts` says and tells it what came of that. IO: links, the loop's timers.

All of it is callbacks: a node's answer is told to whoever waits for it in the very turn of the loop that read it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    LinkLost,
    LocalError,
    PeerError,
    ProtocolViolation,
    RequestKills,
    SequenceUnknown,
)
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    KnownTensors,
    decode_answer,
    encode_call,
)
from capamesh.router.balancing.fitting import fits_another
from capamesh.router.requests.attempt_events import Action, Answered, Failed, Probe, Send, Withdraw
from capamesh.router.requests.attempts import MAX_REFUSALS, MAX_WAIT_S, RequestAttempts
from capamesh.router.requests.killers import Killers
from capamesh.router.requests.sequences import OpenSequences

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.protocol.links.link import Answer, Link
    from capamesh.protocol.tensors import Limits
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.balancing.prober import Prober
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.telemetry import Telemetry

OFFERS_AGE_S = 1.0
"""How long what the replicas of a model offer is taken to stay the same while they are the same (guess)."""
MAX_OFFERS = 1024
"""Models of which that is known (guess: more than are in use)."""


@dataclass(slots=True)  # not frozen: one is made for every request
class Outcome:
    """An answer and who gave it, after how many attempts."""

    answer: InferAnswer
    replica: Replica
    attempts: int
    picker: RequestPicker
    """Can explain why it went there."""


class Waiter(Protocol):
    """Who waits for a request's outcome. Told once, unless the request is abandoned before; must not raise."""

    def answered(self, outcome: Outcome) -> None:
        """A node has answered."""
        ...

    def failed(self, error: CapameshError) -> None:
        """Nobody has, and nobody will. `error` has no traceback."""
        ...


class Awaited:
    """Waits for an outcome in a future."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def answered(self, outcome: Outcome) -> None:
        """Part of `Waiter`."""
        if not self.future.done():
            self.future.set_result(outcome)

    def failed(self, error: CapameshError) -> None:
        """Part of `Waiter`."""
        if not self.future.done():
            self.future.set_exception(error)


class Dispatch:
    """Turns calls into answers."""

    def __init__(
        self,
        prober: Prober,
        *,
        clock: Callable[[], float],
        limits: Limits,
        telemetry: Telemetry,
    ) -> None:
        self.prober = prober
        self.clock = clock
        self.limits = limits
        self.telemetry = telemetry
        self.known_tensors = KnownTensors()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.sequences = OpenSequences()
        self.killers = Killers()
        self._offers: dict[
            tuple[ModelName, ModelVersion], tuple[tuple[Replica, ...], float, bool]
        ] = {}
        """By model: who hosts it, when they were asked, and whether all say that it is idempotent."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of all its requests; before Python 3.12, to ask which it is takes a call of the system."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return loop

    def start(
        self,
        call: InferCall,
        served: ServedModel,
        picker: RequestPicker,
        deadline_s: float,
        waiter: Waiter,
        *,
        is_copy: bool = False,
    ) -> InFlightCall:
        """Ask nodes for an answer before `deadline_s` on the clock; `waiter` may be told before this returns.

        Raises `RequestKills` for one that workers have died of.

        A request of a sequence has its state at one node: if that refuses it, so does the fleet. An answer that
        nobody waits for (`is_copy`) is not worth a second attempt, nor a wait, nor a place in the metrics.
        """
        if not self.killers.is_empty and self.killers.is_barred(
            call, served.witnesses, self.clock()
        ):
            raise RequestKills(
                "workers ended when they ran this very request: it is not sent again for now; ask for less, or have the"
                " model's owner look at it"
            )
        in_flight = InFlightCall(self, call, served, picker, deadline_s, waiter, is_copy=is_copy)
        try:
            in_flight.begin()
        except BaseException:
            in_flight.abandon()  # a bug on the way out leaves nothing in flight
            raise
        return in_flight

    async def infer(
        self,
        call: InferCall,
        served: ServedModel,
        picker: RequestPicker,
        deadline_s: float,
        *,
        is_copy: bool = False,
    ) -> Outcome:
        """Return the answer of whichever node gave one before `deadline_s` on the clock, as `start` asks for it.

        Raises `NoEndpoint`, `DeadlineExceeded`, what a node said is the caller's fault, `Overloaded` when the
        nodes asked had no room, or the last node's error. Cancelling the wait withdraws what is under way.
        """
        waiter = Awaited()
        in_flight = self.start(call, served, picker, deadline_s, waiter, is_copy=is_copy)
        try:
            return await waiter.future
        finally:
            in_flight.abandon()
            del (
                in_flight,
                waiter,
            )  # an error's traceback keeps this frame, and the error is kept by both

    def is_idempotent(self, served: ServedModel) -> bool:
        """Return whether all nodes that host the model say that running a request twice does no harm."""
        replicas, now_s = served.replicas, self.clock()
        key = (served.model, served.version)
        known = self._offers.get(key)
        if known is not None and known[0] is replicas and 0 <= now_s - known[1] < OFFERS_AGE_S:
            return known[2]
        if known is None and len(self._offers) >= MAX_OFFERS:
            self._offers.clear()
        is_idempotent = all(replica.offer.is_idempotent for replica in replicas)
        self._offers[key] = (replicas, now_s, is_idempotent)
        return is_idempotent


class InFlightCall:
    """One request's attempts on their links."""

    __slots__ = (
        "_armed_s",
        "_attempts",
        "_call",
        "_dispatch",
        "_is_copy",
        "_is_listed",
        "_loop",
        "_picker",
        "_sent",
        "_timer",
        "_waiter",
    )

    def __init__(
        self,
        dispatch: Dispatch,
        call: InferCall,
        served: ServedModel,
        picker: RequestPicker,
        deadline_s: float,
        waiter: Waiter,
        *,
        is_copy: bool,
    ) -> None:
        self._dispatch = dispatch
        self._call = call
        self._picker = picker
        self._is_copy = is_copy
        self._is_listed = False
        """It waits, or has waited, for a link."""
        is_alone = is_copy or call.sequence is not None
        is_step = call.sequence is not None and not call.sequence.is_start
        self._attempts = RequestAttempts(
            picker,
            deadline_s=deadline_s,
            size_bytes=picker.size_bytes,
            is_safe=not is_alone and served.is_safe and dispatch.is_idempotent(served),
            # a second node would learn what the key is to keep at one
            is_hedged=served.terms.is_hedged and not picker.key,
            is_pinned=call.sequence is not None,
            max_refusals=0 if is_alone else MAX_REFUSALS,
            # the first link to be up need not be that of the node with the sequence's state
            max_wait_s=0.0 if is_copy or is_step else MAX_WAIT_S,
        )
        self._loop = dispatch.loop
        self._sent: list[_Attempt] = []
        self._waiter: Waiter | None = waiter
        """None: it is over."""
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = math.inf

    def begin(self) -> None:
        """Send the first attempt."""
        self.act(self._attempts.start(self._dispatch.clock()))

    def abandon(self) -> None:
        """Withdraw what is under way; nobody is told anything any more. Does nothing when it is over."""
        self._waiter = None
        if self._sent or self._attempts.is_waiting:
            self.act(self._attempts.abandon(self._dispatch.clock()))

    def act(self, actions: tuple[Action, ...]) -> None:
        """Do what the request says, and what it says to what came of that at once."""
        todo = actions
        outcome: Outcome | CapameshError | None = None
        while todo:
            more: tuple[Action, ...] = ()
            for action in todo:
                match action:
                    case Send(number, replica, budget_ms):
                        more += self._send(number, replica, budget_ms)
                    case Answered(number):
                        outcome = self._outcome_of(self._sent[number])
                        if not self._dispatch.killers.is_empty:
                            self._dispatch.killers.answered(self._call, self._dispatch.clock())
                        if self._call.sequence is not None:
                            self._dispatch.sequences.answered(self._call.model, self._call.sequence)
                    case Failed(error):
                        outcome = _bare(error)
                        if isinstance(outcome, SequenceUnknown):
                            outcome = self._dispatch.sequences.judged(self._call, outcome)
                        elif isinstance(outcome, RequestKills) and not self._is_copy:
                            dispatch = self._dispatch
                            dispatch.killers.note(
                                self._call,
                                outcome.deaths,
                                self._picker.witnesses,
                                dispatch.clock(),
                            )
                    case Probe(replica):
                        self._dispatch.prober.ask([replica])
                    case Withdraw(number):
                        self._sent[number].withdraw()
            todo = more
        waiter = self._waiter
        if waiter is None or outcome is not None:
            self._end()
        else:
            self._arm()
            if self._attempts.is_waiting:
                self._is_listed = True
                picker = self._picker
                picker.served.links.add(self, self._linked, picker.size_bytes)
                if self._attempts.awaits_life:
                    picker.served.lives.add(self, self._linked)
        if waiter is None or outcome is None:
            return
        if isinstance(outcome, Outcome):
            waiter.answered(outcome)
        else:
            waiter.failed(outcome)

    def _end(self) -> None:
        """Leave no timer and no circle: it would keep bodies until it is collected."""
        self._waiter = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_listed:
            self._picker.served.links.remove(self)
            self._picker.served.lives.remove(self)
        self._sent.clear()  # they know the call

    def answered(self, attempt: _Attempt, answer: Answer) -> None:
        """A node has answered."""
        dispatch = self._dispatch
        try:
            given = decode_answer(answer.meta, answer.body, dispatch.limits, dispatch.known_tensors)
        except CapameshError as error:
            self.failed(attempt, _bare(error))
            return
        misfit = attempt.replica.answer_form().misfit(given, self._call.outputs)
        if misfit:
            self.failed(
                attempt,
                ProtocolViolation(f"the node's answer is not what it advertises: {misfit}"),
            )
            return
        attempt.given = given
        at_node_s = (given.queue_us + given.run_us) / 1e6
        self.act(
            self._attempts.answered(
                attempt.number, given.load, at_node_s, len(answer.body), dispatch.clock()
            )
        )

    def failed(self, attempt: _Attempt, error: CapameshError) -> None:
        """A node has refused or failed, or its link has ended."""
        self._count(error)
        is_certain = isinstance(error, ClientError) and not fits_another(
            self._call, self._picker.served.replicas, attempt.replica
        )
        now_s = self._dispatch.clock()
        self.act(self._attempts.failed(attempt.number, error, now_s, is_certain=is_certain))

    def _send(self, number: int, replica: Replica, budget_ms: int) -> tuple[Action, ...]:
        dispatch = self._dispatch
        attempt = _Attempt(self, number, replica)
        self._sent.append(attempt)
        link = replica.endpoint.link
        try:
            if link is None:
                raise LinkLost(f"the link to {replica.endpoint.peer} has just ended")
            call, version = self._call, replica.offer.version
            if call.outputs and (missing := replica.answer_form().lacks(call.outputs)):
                raise PeerError(f"this node advertises no output {missing[:80]!r}")
            if version != call.version:
                call = call._replace(version=version)
            meta, body = encode_call(call, replica.endpoint.network.budget_ms(budget_ms))
            attempt.stream = link.ask(meta, body, attempt)
            attempt.link = link
            if number and not self._is_copy:
                dispatch.telemetry.attempted_again(self._call.model)
        except CapameshError as error:
            self._count(error)
            return self._attempts.failed(number, _bare(error), dispatch.clock(), is_unsent=True)
        wanted = self._picker.probes(dispatch.clock())
        if wanted:
            dispatch.prober.ask(wanted)
        return ()

    def _count(self, error: CapameshError) -> None:
        if not self._is_copy:
            self._dispatch.telemetry.attempt_failed(self._call.model, error)

    def _outcome_of(self, attempt: _Attempt) -> Outcome:
        assert attempt.given is not None  # noqa: S101 - told just before the request was
        return Outcome(attempt.given, attempt.replica, self._attempts.attempts, self._picker)

    def _arm(self) -> None:
        due_s = self._attempts.due_s
        if due_s >= self._armed_s:
            return  # a timer that comes early finds nothing to do, and is set anew
        if self._timer is not None:
            self._timer.cancel()
        self._armed_s = due_s
        self._timer = self._loop.call_later(max(0.0, due_s - self._dispatch.clock()), self._tick)

    def _tick(self) -> None:
        self._timer, self._armed_s = None, math.inf
        self.act(self._attempts.tick(self._dispatch.clock()))

    def _linked(self) -> None:
        """A link is up. A bug on the way out is this request's alone: others wait for the same link."""
        waiter = self._waiter
        try:
            self.act(self._attempts.linked(self._dispatch.clock()))
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an outcome
            self.abandon()
            self._loop.call_exception_handler(
                {"message": "a request that waited for a link has crashed", "exception": error}
            )
            if waiter is not None:
                waiter.failed(LocalError("the router failed on this request; see its log"))


class _Attempt:
    """One request on one link; the `ResponseHandler` that the link knows."""

    __slots__ = ("_in_flight", "given", "link", "number", "replica", "stream")

    def __init__(self, in_flight: InFlightCall, number: int, replica: Replica) -> None:
        self._in_flight = in_flight
        self.number = number
        self.replica = replica
        self.link: Link | None = None
        """None: it was not sent, or is over."""
        self.stream = 0
        self.given: InferAnswer | None = None

    def answered(self, answer: Answer) -> None:
        """Part of `ResponseHandler`."""
        if self.link is not None:
            self.link = None
            self._in_flight.answered(self, answer)

    def failed(self, error: CapameshError) -> None:
        """Part of `ResponseHandler`."""
        if self.link is not None:
            self.link = None
            self._in_flight.failed(self, error)

    def withdraw(self) -> None:
        """Its answer is not wanted any more."""
        link, self.link = self.link, None
        if link is not None:
            link.withdraw(self.stream)


def _bare(error: CapameshError) -> CapameshError:
    """Return an error that was just caught without the frames that its traceback and its causes keep.

    The request keeps the error, and those frames, or who called them, the request.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
