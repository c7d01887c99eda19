"""Sends calls over links: does what a `RequestAttempts` says and tells it what came of that. IO: links.

All of it is callbacks: a node's answer is told to the call's responder in the very turn of the loop that read it. One
that comes in parts is the matter of `answer_parts` from its first part on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    LinkLost,
    LocalError,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RequestKills,
    SequenceUnknown,
)
from capamesh.protocol.links.call_encoder import CallEncoder
from capamesh.protocol.links.calls import (
    InferCall,
    decode_answer,
)
from capamesh.protocol.links.tensor_descriptions import KnownLayouts
from capamesh.router.balancing.attempt import Attempt, AttemptOwner
from capamesh.router.balancing.fitting import fits_another
from capamesh.router.requests.answer_parts import AnswerInParts, PartsReader, read_first_part
from capamesh.router.requests.attempt_events import Action, Answered, Failed, Probe, Send, Withdraw
from capamesh.router.requests.attempts import MAX_REFUSALS, MAX_WAIT_S, RequestAttempts
from capamesh.router.requests.call import Call, Handle, Outcome, Responder
from capamesh.router.requests.idempotency import Idempotency
from capamesh.router.requests.killers import Killers
from capamesh.router.requests.sequences import OpenSequences
from capamesh.router.timers import Alarms

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelVersion
    from capamesh.protocol.links.events import Answer
    from capamesh.protocol.tensors import Limits
    from capamesh.router.admission.controller import Permit
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.balancing.prober import Prober
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.telemetry import AttemptCounts
    from capamesh.router.timers import Timers

Recover = Callable[[Call, Responder, "CapameshError"], Handle | None]
"""Returns how a call goes on that has failed, None where it does not: then its responder is still to be told."""


class Dispatch:
    """Turns calls into outcomes."""

    def __init__(
        self,
        prober: Prober,
        *,
        clock: Callable[[], float],
        timers: Timers,
        limits: Limits,
        counts: AttemptCounts,
    ) -> None:
        self.prober = prober
        self.clock = clock
        self.timers = timers
        self.alarms = Alarms(timers, clock)
        self.limits = limits
        self.counts = counts
        self.encoder = CallEncoder()
        self.known_layouts = KnownLayouts()
        self.sequences = OpenSequences()
        self.killers = Killers()
        self.idempotency = Idempotency(clock)

    def start(
        self,
        call: Call,
        picker: RequestPicker,
        responder: Responder,
        permit: Permit | None = None,
        recover: Recover | None = None,
    ) -> InFlightCall:
        """Ask nodes for an answer; `responder` may be told what came of it before this returns.

        The `permit` is released when the call ends. `recover` is asked how the call goes on that nobody has answered.
        A request of a sequence has its state at one node: if that refuses it, so does the fleet.

        Raises `RequestKills` for one that workers have died of.
        """
        now_s = self.clock()
        if now_s < self.killers.until_s and self.killers.is_barred(
            _of_version(call.request, picker.served.version), picker.served.witnesses, now_s
        ):
            raise RequestKills(
                "workers ended when they ran this very request: it is not sent again for now; ask for less, or have the"
                " model's owner look at it"
            )
        in_flight = InFlightCall(self, call, picker, responder, permit, recover)
        try:
            in_flight.act(in_flight.start(now_s))
        except BaseException:
            in_flight.cancel()  # a bug on the way out leaves nothing in flight
            raise
        return in_flight


class InFlightCall(RequestAttempts, AttemptOwner, Handle):
    """One call's attempts on their links: does what they say, in their order."""

    __slots__ = (
        "_armed_s",
        "_call",
        "_dispatch",
        "_is_listed",
        "_next",
        "_permit",
        "_recover",
        "_responder",
        "_version",
        "picker",
    )

    picker: RequestPicker
    """Can explain where the call went, also when it is over."""

    def __init__(
        self,
        dispatch: Dispatch,
        call: Call,
        picker: RequestPicker,
        responder: Responder,
        permit: Permit | None,
        recover: Recover | None,
    ) -> None:
        request, is_copy, served = call.request, call.is_copy, picker.served
        sequence = request.sequence
        is_alone = is_copy or sequence is not None
        is_step = sequence is not None and not sequence.is_start
        # whoever sends calls of jobs looks for the rows at fault itself, and runs what may have ended a worker once
        is_bulk = picker.shape.bulk_rows > 0
        may_repeat = not is_alone and not is_bulk and served.rules.is_retried
        is_safe = may_repeat and dispatch.idempotency.holds(served)
        super().__init__(
            picker,
            deadline_s=call.deadline_s,
            size_bytes=picker.shape.size_bytes,
            is_safe=is_safe,
            may_be_safe=may_repeat,
            # a second node would learn what the key is to keep at one
            is_hedged=served.rules.is_hedged and not picker.shape.affinity,
            is_pinned=sequence is not None,
            max_refusals=0 if is_alone else MAX_REFUSALS,
            # the first link to be up need not be that of the node with the sequence's state
            max_wait_s=0.0 if is_copy or is_step or is_bulk else MAX_WAIT_S,
        )
        self.picker = picker  # pyright: ignore[reportIncompatibleMethodOverride] - it can be read, which is all that is asked
        self._dispatch = dispatch
        self._call = call
        self._permit = permit
        self._recover = recover
        self._responder: Responder | None = responder
        """The receiver of the outcome; None: it is over."""
        self._next: Handle | None = None
        """The way in which the call goes on, since nobody who was there could answer it."""
        self._is_listed = False
        """True if it waits, or has waited, for a link."""
        self._version = served.version
        """The version to which it was first sent: workers die of a request to a version."""
        self._armed_s = math.inf
        """The time of its alarm; infinity: it has none."""

    @override
    def cancel(self) -> None:
        self._recover = None
        if self._responder is not None:
            self._responder = None
            self.act(self.abandon(self._dispatch.clock()))
        if self._next is not None:
            self._next.cancel()

    def act(self, actions: tuple[Action, ...]) -> None:
        """Do what the attempts say, and what they say to what came of that at once."""
        dispatch, request = self._dispatch, self._call.request
        todo = actions
        outcome: Outcome | CapameshError | None = None
        while todo:
            more: tuple[Action, ...] = ()
            for action in todo:
                match action:
                    case Send(attempt=number, replica=replica, budget_ms=budget_ms):
                        more += self._ask(number, replica, budget_ms)
                    case Answered(attempt=number):
                        it = self._attempts[number]
                        assert it.answer is not None  # noqa: S101 - told just before the request was
                        peer = it.replica.endpoint.peer
                        outcome = Outcome(
                            it.answer, peer, it.replica, len(self._attempts), self.picker
                        )
                        it.answer = None
                        if dispatch.clock() < dispatch.killers.until_s:
                            asked = _of_version(request, self._version)
                            dispatch.killers.answered(asked, dispatch.clock())
                        if request.sequence is not None:
                            dispatch.sequences.answered(request.model, request.sequence, it.replica)
                    case Failed(error=error):
                        outcome = self._judged(_bare(error))
                    case Probe(replica=replica):
                        dispatch.prober.ask([replica])
                    case Withdraw(attempt=number):
                        self._attempts[number].withdraw()
            todo = more
        responder = self._responder
        if responder is None or outcome is not None:
            self._close(is_served=not isinstance(outcome, Overloaded))
        else:
            self._arm()
            if self.is_waiting:
                self._is_listed = True
                picker = self.picker
                picker.served.links.add(self, self._linked, picker.shape.size_bytes)
                if self.awaits_life:
                    picker.served.lives.add(self, self._linked)
        if responder is None or outcome is None:
            return
        if isinstance(outcome, Outcome):
            responder.complete(outcome)
        else:
            self._fail(responder, outcome)

    def _judged(self, error: CapameshError) -> CapameshError:
        """Return what to tell of a failure, once all that it says of others is noted."""
        dispatch, request = self._dispatch, self._call.request
        if isinstance(error, SequenceUnknown):
            return dispatch.sequences.judged(request, error)
        if isinstance(error, LinkLost) and error.is_sudden:
            endpoint = self._attempts[-1].replica.endpoint
            error.peer, error.others = endpoint.peer, endpoint.lost_rif - 1
        elif isinstance(error, RequestKills) and not request.is_bulk:
            asked = _of_version(request, self._version)
            dispatch.killers.note(asked, error.deaths, self.picker.witnesses, dispatch.clock())
        return error

    def _fail(self, responder: Responder, error: CapameshError) -> None:
        """Let the call go on in another way after a failure if there is one, else tell of the failure."""
        recover, self._recover = self._recover, None
        if recover is not None:
            self._next = recover(self._call, responder, error)
        if self._next is None:
            responder.fail(error)

    def _close(self, *, is_served: bool) -> None:
        """Leave no timer and no circle: it would keep bodies until it is collected."""
        self._responder = None
        if self._armed_s < math.inf:
            self._dispatch.alarms.call_off(self._armed_s, self._tick)
            self._armed_s = math.inf
        if self._is_listed:
            self.picker.served.links.remove(self)
            self.picker.served.lives.remove(self)
        if self._permit is not None:
            self._permit.release(self._dispatch.clock(), is_served=is_served)

    @override
    def take_part(self, attempt: Attempt, part: Answer) -> AnswerInParts | None:
        responder, link, dispatch = self._responder, attempt.link, self._dispatch
        if responder is None or link is None:
            return None
        given = read_first_part(dispatch, self._call.request, attempt.replica, part)
        if isinstance(given, CapameshError):
            link.withdraw(attempt.stream)
            self.take_failure(attempt, given)
            return None
        rest = AnswerInParts(
            dispatch, self._call, self.picker, responder, self._permit, attempt, link, part
        )
        self._responder, self._permit, self._next = rest, None, rest
        attempt.answer = given
        at_node_s = (given.queue_us + given.run_us) / 1e6
        self.act(
            self.answered(attempt.number, given.load, at_node_s, len(part.body), dispatch.clock())
        )
        return rest

    @override
    def take_answer(self, attempt: Attempt, answer: Answer) -> None:
        dispatch = self._dispatch
        try:
            given = decode_answer(answer.meta, answer.body, dispatch.limits, dispatch.known_layouts)
        except CapameshError as error:
            self.take_failure(attempt, _bare(error))
            return
        replica = attempt.replica
        form = replica.form or replica.answer_form()
        request = self._call.request
        misfit = form.misfit(given, request.outputs, request.classes)
        if misfit:
            self.take_failure(
                attempt,
                ProtocolViolation(f"the node's answer is not what it advertises: {misfit}"),
            )
            return
        attempt.answer = given
        at_node_s = (given.queue_us + given.run_us) / 1e6
        self.act(
            self.answered(attempt.number, given.load, at_node_s, len(answer.body), dispatch.clock())
        )

    @override
    def take_failure(self, attempt: Attempt, error: CapameshError) -> None:
        self._count(error)
        served = self.picker.served
        is_certain = isinstance(error, ClientError) and not fits_another(
            self._call.request, served.replicas, attempt.replica, served.deaths.invite_of
        )
        now_s = self._dispatch.clock()
        self.act(self.failed(attempt.number, error, now_s, is_certain=is_certain))

    def _ask(self, number: int, replica: Replica, budget_ms: int) -> tuple[Action, ...]:
        """Ask a node over its link; return what else is to be done."""
        dispatch = self._dispatch
        attempt = self._attempts[number]
        link = replica.endpoint.link
        try:
            if link is None:
                raise LinkLost(f"the link to {replica.endpoint.peer} has just ended")
            request = self._call.request
            if request.outputs and (missing := replica.answer_form().lacks(request.outputs)):
                raise PeerError(f"this node advertises no output {missing[:80]!r}")
            left_ms = replica.endpoint.network.budget_ms(budget_ms)
            meta, body = dispatch.encoder.encode(request, left_ms, replica.offer.version)
            asker = PartsReader(attempt) if request.takes_parts else attempt
            attempt.stream = link.ask(meta, body, asker)
            attempt.link, attempt.owner = link, self
            if number and not self._call.is_copy:
                dispatch.counts.attempted_again(request.model)
        except CapameshError as error:
            self._count(error)
            return self.failed(number, _bare(error), dispatch.clock(), is_unsent=True)
        wanted = self.picker.probes(dispatch.clock())
        if wanted:
            dispatch.prober.ask(wanted)
        return ()

    def _count(self, error: CapameshError) -> None:
        if not self._call.is_copy:
            self._dispatch.counts.attempt_failed(self._call.request.model, error)

    def _arm(self) -> None:
        due_s = self.due_s
        if due_s >= self._armed_s:
            return  # an alarm that comes early finds nothing to do, and is set anew
        alarms = self._dispatch.alarms
        if self._armed_s < math.inf:
            alarms.call_off(self._armed_s, self._tick)
        self._armed_s = due_s
        alarms.set(due_s, self._tick)

    def _tick(self) -> None:
        self._armed_s = math.inf
        self.act(self.tick(self._dispatch.clock()))

    def _linked(self) -> None:
        """Look again at a link that is up. A bug on the way out is this call's alone: others wait for the same link."""
        responder = self._responder
        try:
            self.act(self.linked(self._dispatch.clock()))
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an outcome
            self.cancel()
            self._dispatch.timers.call_exception_handler(
                {"message": "a request that waited for a link has crashed", "exception": error}
            )
            if responder is not None:
                responder.fail(LocalError("the router failed on this request; see its log"))


def _of_version(request: InferCall, version: ModelVersion) -> InferCall:
    """Return a request that names a version."""
    return request.replace(version=version)


def _bare(error: CapameshError) -> CapameshError:
    """Return an error that was just caught without the frames that its traceback and its causes keep.

    The request keeps the error, and those frames, or who called them, the request.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
