"""One request inside a scheduler, and the batch that it runs in. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from enum import IntEnum
from typing import Final, Protocol

from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.protocol.tensors import Tensor

Result = Sequence[Tensor] | CapameshError
"""The result of a request: the outputs that it asked for, or the error why there are none."""


class RequestState(IntEnum):
    """The state of a request; it only ever moves forward, but from one step of a loop to the next."""

    NEW = 0
    WAITING = 1
    """The request waits behind an earlier one of its own sequence, or until its reader takes the next part of the answer."""
    QUEUED = 2
    RUNNING = 3
    ENDED = 4
    """Answered, or not wanted any more. Its run may still be going on."""


# Names of their own: until Python 3.12 asking an enumeration for a member takes ten times as long (measured).
NEW: Final = RequestState.NEW
WAITING: Final = RequestState.WAITING
QUEUED: Final = RequestState.QUEUED
RUNNING: Final = RequestState.RUNNING
ENDED: Final = RequestState.ENDED


class PendingRequest:
    """One request: what to run, until when, and whom to tell.

    `on_part` is called with each part of an answer that is ready before the others, and `done` at most once, with the
    rest of it, or with why it does not come. Without `on_part` the caller takes a whole answer only.
    """

    __slots__ = (
        "arrived_s",
        "batch",
        "deadline_s",
        "done",
        "held_bytes",
        "in_flight",
        "inputs",
        "is_alone",
        "is_bulk",
        "is_delayable",
        "is_held",
        "key",
        "later_rows",
        "on_part",
        "order",
        "outputs",
        "parts",
        "priority",
        "rows",
        "run_s",
        "sent_bytes",
        "sequence",
        "start_by_s",
        "started_s",
        "state",
        "steps",
        "urgency_s",
    )

    def __init__(
        self,
        inputs: tuple[Tensor, ...],
        outputs: tuple[str, ...],
        done: Callable[[PendingRequest, Result], None],
        *,
        arrived_s: float,
        deadline_s: float | None = None,
        priority: float = 0,
        is_bulk: bool = False,
        is_alone: bool = False,
        sequence: SequenceMark | None = None,
        on_part: Callable[[PendingRequest, Sequence[Tensor]], None] | None = None,
    ) -> None:
        self.inputs = inputs
        """The inputs in the model's order."""
        self.outputs = outputs
        """Empty for all."""
        self.done = done
        self.on_part = on_part
        self.arrived_s = arrived_s
        self.deadline_s = deadline_s
        self.priority = priority
        """Lower goes first; half a number is added to one that has waited too long (`RequestQueue.delay`)."""
        self.is_bulk = is_bulk
        self.is_alone = is_alone
        """True if nothing else may be in its run, and it is to be told which request that was."""
        self.sequence = sequence
        self.start_by_s = math.inf
        """The time when its run must have begun."""
        self.is_delayable = False
        """True if it then goes behind others of its priority, instead of being refused."""
        self.state: RequestState = NEW
        self.rows = 1
        """The rows that are to be run, or run now."""
        self.later_rows = 0
        """The rows that are left for later runs, while only some of a bulk request run."""
        self.parts: Parts | None = None
        """The parts in which it may be run; None: it is run as a whole."""
        self.key: Hashable = None
        """Requests of equal keys may share a batch."""
        self.order = 0
        self.in_flight = 0
        """The number of requests in flight when it came, itself included."""
        self.started_s = arrived_s
        self.run_s = 0.0
        self.batch: Batch | None = None
        self.held_bytes = 0
        """The bytes of the device's memory that are kept free for its run; 0 where it needs little."""
        self.urgency_s = math.inf if deadline_s is None else deadline_s
        """The rank among those of its priority, of which the least goes first; in a loop all have 0, and equal turns."""
        self.steps = 0
        """The steps of its loop that have run. Once one has, the request gives way to no other."""
        self.sent_bytes = 0
        """The bytes of the outputs of these steps."""
        self.is_held = False
        """True while its reader takes no more parts: it is not run until `Scheduler.resume`. Set by who sends the parts."""

    @override
    def __repr__(self) -> str:
        return f"PendingRequest({self.state.name}, {self.rows} rows, priority {self.priority:g})"

    def part(self, outputs: Sequence[Tensor]) -> bool:
        """Answer with a part, in the event loop; False: nobody waits for more, or only for the whole answer."""
        if self.on_part is None or self.state is not RequestState.RUNNING:
            return False
        self.on_part(self, outputs)
        return self.batch is not None and self.state is RequestState.RUNNING


@mypyc_attr(native_class=False)
class Parts(Protocol):
    """The parts of one request, of which one runs at a time."""

    __slots__ = ()

    @property
    def is_first(self) -> bool:
        """Return whether none has run."""
        ...

    def cut(self, request: PendingRequest, rows: int) -> None:
        """Leave the first of its rows that have not run in a request; the others become its later rows."""
        ...

    def ran(self, request: PendingRequest, outcome: Result) -> Result | None:
        """Take in what a part gave; return what ends the request. None: the rows that are left are now those of the request."""
        ...


@mypyc_attr(native_class=False)
class RunPlan(Protocol):
    """The plan by which the requests of one batch become one run, and the outputs of that run theirs again."""

    __slots__ = ()

    def join(self, requests: Sequence[PendingRequest]) -> Sequence[Tensor]:
        """Return the inputs of the run."""
        ...

    def wanted(self, requests: Sequence[PendingRequest]) -> tuple[str, ...]:
        """Return the outputs to ask the model for; empty for all."""
        ...

    def split(
        self,
        requests: Sequence[PendingRequest],
        outputs: Sequence[Tensor],
        joined: Sequence[Tensor],
    ) -> Sequence[Sequence[Tensor]]:
        """Return each request's own outputs; `joined` is what `join` returned. Raises `RunFailed`."""
        ...


class Batch:
    """Requests that run together."""

    __slots__ = (
        "has_begun",
        "has_bulk",
        "is_background",
        "is_stream",
        "large_bytes",
        "plan",
        "request",
        "requests",
        "rows",
        "started_s",
        "stop",
        "wanted",
    )

    def __init__(
        self,
        requests: list[PendingRequest],
        rows: int,
        started_s: float,
        plan: RunPlan,
        *,
        is_stream: bool = False,
    ) -> None:
        self.requests = requests
        self.rows = rows
        self.started_s = started_s
        self.plan = plan
        """The plan by which its requests become one run, as that was when the batch was made."""
        self.is_stream = is_stream
        """True if it runs on one thread, beside others, instead of on all."""
        self.is_background = False
        """True if it runs behind all others, in a thread that gives way to theirs; set by whoever takes it."""
        self.has_bulk = False
        """True if any of them is bulk; set by whoever takes it."""
        self.has_begun = True
        """False while it waits, ready made, behind the run before it; set by whoever runs it."""
        self.wanted = len(requests)
        """Members whose answer is still awaited."""
        self.request = b""
        """The digest of its only request, set by whoever runs it; empty where it has several."""
        self.large_bytes = 0
        """The bytes of the inputs of its only request, where those are unusually many."""
        self.stop: Callable[[], None] | None = None
        """Ends the run early; set by whoever runs it."""

    @override
    def __repr__(self) -> str:
        return f"Batch({len(self.requests)} requests, {self.rows} rows, {self.wanted} wanted)"


def answer_all(answers: Sequence[tuple[PendingRequest, Result]]) -> Exception | None:
    """Give all answers; return the first fault of a caller, which must not cost the others their answers."""
    fault: Exception | None = None
    for request, outcome in answers:
        try:
            request.done(request, outcome)
        except Exception as exc:  # noqa: BLE001 - see above
            fault = fault or exc
    return fault


def unheard(request: PendingRequest, result: Result) -> None:
    """Stand for a caller who has left."""
