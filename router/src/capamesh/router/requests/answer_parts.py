"""An answer in parts, from its first part to its end. IO: links.

The attempts of a call end with the first part: that is their answer, and no other node is asked from then on. What
follows is one node's, and here it is passed on to the call's responder: each part as it comes, then the end, or an error
that says how many parts there were. A part is held until whoever takes it releases it, and the node sends the next ones
only as far as parts are released. So whoever stalls stops his own answer, down to the node.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    ClientError,
    DeadlineExceeded,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RunFailed,
    from_wire,
    is_refusal,
)
from capamesh.protocol.links.calls import decode_answer
from capamesh.protocol.links.handlers import PartsHandler
from capamesh.router.requests.blame import judged
from capamesh.router.requests.call import Handle, Outcome, Part, PartHolder, Responder

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.protocol.links.calls import InferAnswer, InferCall
    from capamesh.protocol.links.events import Answer
    from capamesh.protocol.links.tensor_descriptions import KnownLayouts
    from capamesh.protocol.tensors import Limits
    from capamesh.router.admission.controller import Permit
    from capamesh.router.balancing.attempt import Attempt
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.fleet.node_link import NodeLink
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.requests.call import Call
    from capamesh.router.telemetry import AttemptCounts
    from capamesh.router.timers import Alarms

MOST_PARTS: Final = 1_000_000
MOST_BYTES: Final = 2**30
"""The most of one answer that is passed on, whatever its node advertises: as much as a manifest may allow."""
REPORT_S: Final = 0.02
"""Seconds for which a report of a replica's load holds before one of a part is taken over (guess: admission reads them as often)."""


@mypyc_attr(native_class=False)
class Services(Protocol):
    """The things of a router that answers in parts need."""

    __slots__ = ()

    @property
    def clock(self) -> Callable[[], float]:
        """The router's clock, in seconds."""
        ...

    @property
    def alarms(self) -> Alarms:
        """The alarms that go by it."""
        ...

    @property
    def limits(self) -> Limits:
        """The limits of one message."""
        ...

    @property
    def known_layouts(self) -> KnownLayouts:
        """The forms of answers that were read before."""
        ...

    @property
    def counts(self) -> AttemptCounts:
        """The receiver of what failed at nodes."""
        ...


class PartsReader(PartsHandler):
    """The receiver of what comes over a link for one attempt of a call that takes its answer in parts."""

    __slots__ = ("_attempt", "_rest")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._rest: PartsHandler | None = None
        """The receiver of all that comes after the first part; None before that."""

    @override
    def part_answered(self, part: Answer) -> None:
        if self._rest is not None:
            self._rest.part_answered(part)
            return
        attempt = self._attempt
        owner, attempt.owner = attempt.owner, None
        if owner is not None:
            self._rest = owner.take_part(attempt, part)

    @override
    def answered(self, answer: Answer) -> None:
        if self._rest is None:
            self._attempt.answered(answer)
        else:
            self._rest.answered(answer)

    @override
    def failed(self, error: CapameshError) -> None:
        if self._rest is None:
            self._attempt.failed(error)
        else:
            self._rest.failed(error)


class AnswerInParts(PartsHandler, PartHolder, Responder, Handle):
    """The answer of one node to one call, whose first part has come.

    It stands in for the call's responder while the attempts end, and for the call's handle from then on.
    """

    __slots__ = (
        "_armed_s",
        "_attempt",
        "_attempts",
        "_call",
        "_is_over",
        "_last",
        "_link",
        "_most_parts",
        "_next_s",
        "_permit",
        "_picker",
        "_quiet_s",
        "_responder",
        "_services",
        "_unreleased",
        "parts",
        "size_bytes",
    )

    def __init__(
        self,
        services: Services,
        call: Call,
        picker: RequestPicker,
        responder: Responder,
        permit: Permit | None,
        attempt: Attempt,
        link: NodeLink,
        first: Answer,
    ) -> None:
        """Take over the `permit`, and the place in the counts of what is under way; `first` came from `link`."""
        self._services = services
        self._call = call
        self._picker = picker
        self._responder = responder
        self._permit = permit
        self._attempt = attempt
        self._link = link
        self._last = first
        """The newest part."""
        self._most_parts = attempt.replica.offer.max_parts
        self._attempts = 0
        now_s = services.clock()
        self._next_s = now_s - attempt.sent_s
        """The time that the next part may take, by the first one and by what the node says of its parts."""
        self._quiet_s = now_s
        """The time since when the node could have sent the next part."""
        self._unreleased = 0
        self.parts = 0
        """The parts that were passed on."""
        self.size_bytes = len(first.body)
        """The bytes of all parts."""
        self._is_over = False
        self._armed_s = math.inf
        attempt.replica.rif += 1  # before the attempts count theirs out
        attempt.replica.streams += 1
        attempt.replica.endpoint.rif += 1

    # the attempts, and who asked

    @property
    @override
    def picker(self) -> RequestPicker | None:
        return self._picker

    @override
    def complete(self, outcome: Outcome) -> None:
        """Pass on the first part, with which the attempts have ended."""
        self._attempts = outcome.attempts
        told_s = outcome.answer.load.run_us / 1e6
        if told_s > 0:  # the first part may have waited for others, which the next one does not
            self._next_s = min(self._next_s, told_s)
        self._arm()
        self._pass_on(outcome.answer)

    @override
    def fail(self, error: CapameshError) -> None:
        """Pass on an error of the attempts, which have none once they are answered."""
        self.failed(error)

    @override
    def cancel(self) -> None:
        """Have the node stop, for nobody takes what it would send."""
        if not self._is_over:
            self._link.withdraw(self._attempt.stream)
            self._end(is_served=True)

    @override
    def released(self, part: Answer) -> None:
        """Let the node send more, for a part has been passed on."""
        if self._is_over:
            return
        self._unreleased -= 1
        if not self._unreleased:
            self._quiet_s = self._services.clock()
        self._link.release(self._attempt.stream, part)

    # the link

    @override
    def part_answered(self, part: Answer) -> None:
        """Pass on a part."""
        if self._is_over:
            return
        now_s = self._services.clock()
        if not self._unreleased:
            self._picker.served.hedging.gaps.add(now_s - self._quiet_s, now_s)
        replica = self._attempt.replica
        self._quiet_s = replica.answered_s = replica.proved_s = now_s  # each is of a run of its own
        self._last = part
        self.size_bytes += len(part.body)
        most = self._most_parts
        if self.parts + 1 >= min(most, MOST_PARTS) or self.size_bytes > MOST_BYTES:
            # the last one comes as the end
            text = f"the node sends more than the {most} parts that it advertises, or than {MOST_BYTES} bytes"
            self.failed(ProtocolViolation(text))
            return
        given = self._read(part)
        if given is not None:
            replica = self._attempt.replica
            if not 0 <= now_s - replica.load_s < REPORT_S:
                self._picker.served.reported(replica, given.load, now_s)
            self._pass_on(given)

    @override
    def answered(self, answer: Answer) -> None:
        """Pass on the last part, which is the end."""
        if self._is_over:
            return
        given = self._read(answer)
        if given is None:
            return
        self.size_bytes += len(answer.body)
        now_s = self._services.clock()
        self._picker.served.reported(self._attempt.replica, given.load, now_s)
        self._end(is_served=True)
        replica = self._attempt.replica
        peer = replica.endpoint.peer
        self._responder.complete(Outcome(given, peer, replica, self._attempts, self._picker))

    @override
    def failed(self, error: CapameshError) -> None:
        """End with an error: it is the node's, or its link has ended."""
        if self._is_over:
            return
        now_s, attempt = self._services.clock(), self._attempt
        remaining_s = self._call.deadline_s - now_s
        has_time_left = self._picker.has_time_left(attempt.replica, remaining_s)
        error = judged(error, remaining_s, has_time_left=has_time_left)
        if isinstance(error, ClientError) and not isinstance(error, DeadlineExceeded):
            text = f"the node answered {error.code} after it had begun: {error.message}"
            error = RunFailed(text)  # what it has begun it has taken
        self._link.withdraw(attempt.stream)
        if not isinstance(error, DeadlineExceeded):
            self._services.counts.attempt_failed(self._call.request.model, error)
            attempt.replica.rif += 1  # `failed` counts one out, as the end does
            attempt.replica.endpoint.rif += 1
            self._picker.failed(attempt.replica, error, now_s - attempt.sent_s, now_s)
        self._tell(error)

    # inside

    def _read(self, answer: Answer) -> InferAnswer | None:
        """Return what came if it is what the node advertises; None: it is not, and the answer has ended."""
        given = read_part(self._services, self._call.request, self._attempt.replica, answer)
        if isinstance(given, CapameshError):
            self.failed(given)
            return None
        return given

    def _pass_on(self, given: InferAnswer) -> None:
        self.parts += 1
        self._unreleased += 1
        replica = self._attempt.replica
        outcome = Outcome(given, replica.endpoint.peer, replica, self._attempts, self._picker)
        self._responder.take_part(Part(outcome, self.parts, self, self._last))

    def _tell(self, error: CapameshError) -> None:
        self._end(is_served=not isinstance(error, Overloaded))
        self._responder.fail(broken_off(error, self.parts))

    def _end(self, *, is_served: bool) -> None:
        """Leave nothing behind that counts."""
        self._is_over = True
        replica = self._attempt.replica
        replica.rif -= 1
        replica.streams -= 1
        replica.endpoint.ended()
        if self._armed_s < math.inf:
            self._services.alarms.call_off(self._armed_s, self._tick)
            self._armed_s = math.inf
        if self._permit is not None:
            self._permit.release(self._services.clock(), is_served=is_served)

    # time

    def _idle_s(self, now_s: float) -> float:
        """Return how long the node may send nothing while it could."""
        return self._picker.served.hedging.idle_limit_s(now_s, self._next_s)

    def _arm(self) -> None:
        """Look again when the node has been idle for too long, or the call's time is over."""
        now_s = self._services.clock()
        since_s = now_s if self._unreleased else self._quiet_s
        self._armed_s = min(self._call.deadline_s, since_s + self._idle_s(now_s))
        self._services.alarms.set(self._armed_s, self._tick)

    def _tick(self) -> None:
        self._armed_s = math.inf
        if self._is_over:
            return
        now_s = self._services.clock()
        silent_s = now_s - self._quiet_s
        if now_s >= self._call.deadline_s:
            text = "the request's deadline passed; allow more time"
            self._link.withdraw(self._attempt.stream)
            self._tell(DeadlineExceeded(text))
        elif not self._unreleased and silent_s >= self._idle_s(now_s):
            self._link.withdraw(self._attempt.stream)
            self._picker.silent(self._attempt.replica, silent_s, now_s)
            error = PeerError(f"the node has sent nothing for {silent_s:.1f} s")
            self._services.counts.attempt_failed(self._call.request.model, error)
            self._tell(error)
        else:
            self._arm()


def read_first_part(
    services: Services, request: InferCall, replica: Replica, part: Answer
) -> InferAnswer | CapameshError:
    """Return the first part of an answer, or the error that it is not what the node advertises."""
    if not replica.offer.max_parts:
        return ProtocolViolation("the node answers in parts, and advertises that it answers whole")
    return read_part(services, request, replica, part)


def read_part(
    services: Services, request: InferCall, replica: Replica, answer: Answer
) -> InferAnswer | CapameshError:
    """Return a part as a node has sent it, or the error that it is not what the node advertises."""
    try:
        given = decode_answer(answer.meta, answer.body, services.limits, services.known_layouts)
    except CapameshError as error:
        error.__cause__ = error.__context__ = None  # with which it would keep frames
        return error.with_traceback(None)
    form = replica.form or replica.answer_form()
    misfit = form.misfit(given, request.outputs, request.classes)
    if misfit:
        return ProtocolViolation(f"the node's answer is not what it advertises: {misfit}")
    return given


def broken_off(error: CapameshError, parts: int) -> CapameshError:
    """Return the error of an answer that broke off after so many parts: of the same kind, unless that says it never ran."""
    text = (
        f"the answer broke off after {parts} {'part' if parts == 1 else 'parts'}: {error.message}"
    )
    told = from_wire(RunFailed.code if is_refusal(error) else error.code, text)
    told.parts = parts
    return told
