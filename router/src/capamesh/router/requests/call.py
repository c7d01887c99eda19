"""One inference request on its way through the router, whatever brought it, and what comes of it. Pure.

A `Call` goes down from layer to layer, each of which is started with a call and a `Responder` and returns a `Handle`.
The responder is told the outcome once; the handle takes the call back. No layer makes a second object for the call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mypy_extensions import mypyc_attr

from capamesh.protocol.values import Value
from capamesh.router.rules.constraints import ANYWHERE, Constraints

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.links.calls import InferAnswer, InferCall
    from capamesh.protocol.links.events import Answer
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.cache.entry import Entry
    from capamesh.router.fleet.replica import Replica


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """The wishes of a request for its way."""

    constraints: Constraints = ANYWHERE
    policy: str = ""
    """The name of the policy; empty: the model's."""
    affinity: str = ""
    """Requests of one key go to one node where that is possible; "": wherever is best."""
    tenant: str = ""
    """The tenant whose share of the fleet it uses when there is not enough for all, and whose kept answers are given to it."""
    max_age_s: float = math.inf
    """The seconds for which an answer may have been kept that is given to it; 0: it is run."""
    may_be_kept: bool = True
    """False if it neither takes a kept answer nor leaves one."""
    beginnings: tuple[int, ...] = ()
    """The names of the beginnings of its prompt, the shortest first: it is best run where these were run before."""
    share: str = ""
    """The one whose share of the fleet it uses where it names no tenant: the site of its client; empty: all such have one share."""


NO_OPTIONS = RoutingOptions()


class Call(Value):
    """One request: what is asked of a model, how it is to be routed, and until when it is of use."""

    __slots__ = ("deadline_s", "is_copy", "options", "request")

    def __init__(
        self, request: InferCall, options: RoutingOptions, deadline_s: float, is_copy: bool = False
    ) -> None:
        self.request = request
        """The request as nodes get it; its version is empty where it names none. A call of a job (bulk, and no copy) is run at most
        once: who sends it repeats it, and is told by `LinkLost.is_sudden`, `peer` and `others` of what its worker may have ended."""
        self.options = options
        self.deadline_s = deadline_s
        """The deadline on the router's clock."""
        self.is_copy = is_copy
        """Nobody waits for the answer, which is not worth a second attempt, nor a wait, nor a place in the metrics."""

    @property
    def key(self) -> str:
        """The key of the calls that are to meet at one node: a sequence's, else the caller's; empty: none."""
        sequence = self.request.sequence
        return self.options.affinity if sequence is None else f"sequence {sequence.id}"


class Outcome(Value):
    """An answer and who gave it, after how many attempts."""

    __slots__ = ("answer", "attempts", "entry", "peer", "picker", "replica")

    def __init__(
        self,
        answer: InferAnswer,
        peer: PeerId,
        replica: Replica | None,
        attempts: int,
        picker: RequestPicker,
        entry: Entry | None = None,
    ) -> None:
        self.answer = answer
        self.peer = peer
        """The node that gave it."""
        self.replica = replica
        """The replica that gave it; None: it was kept, and another router had asked for it."""
        self.attempts = attempts
        """The nodes that were asked for this call; 0: its answer was kept, or is that of an equal call."""
        self.picker = picker
        """Can explain why it went there; of a kept answer it tells the version alone."""
        self.entry = entry
        """The kept answer that it is; None: it was run for this call, or for an equal one at the same time."""

    @property
    def cache(self) -> str:
        """Return why it was kept, for the log; `miss`: it was not, though its model has a cache; empty: it has none."""
        if self.entry is not None:
            return self.entry.word
        return "" if self.picker.served.rules.cache is None else "miss"


@mypyc_attr(native_class=False)
class PartHolder(Protocol):
    """The one who counts the parts that are not released."""

    __slots__ = ()

    def released(self, part: Answer) -> None:
        """Take that a part, which came so, has been passed on."""
        ...


class Part(Value):
    """One part of an answer, of which others follow. Whoever has passed it on releases it, so that its node may send more."""

    __slots__ = ("_holder", "_raw", "number", "outcome")

    def __init__(self, outcome: Outcome, number: int, holder: PartHolder, raw: Answer) -> None:
        """`holder` is told that `raw`, the part as it came, is released."""
        self.outcome = outcome
        """The part as an answer, and who gave it."""
        self.number = number
        """The parts of the answer so far, this one included."""
        self._holder: PartHolder | None = holder
        self._raw = raw

    def release(self) -> None:
        """Let the node send more in its place; a second time does nothing."""
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.released(self._raw)


@mypyc_attr(native_class=False)
class Responder(Protocol):
    """The receiver of what came of a call: told `complete` or `fail`, once, unless the call is cancelled before.

    Where the call takes its answer in parts, any number of them comes before that. None of these may raise.
    """

    __slots__ = ()

    def take_part(self, part: Part) -> None:
        """Take a part of the answer, and release it once it is passed on: the default passes it by."""
        part.release()

    def complete(self, outcome: Outcome) -> None:
        """Take the answer of a node."""
        ...

    def fail(self, error: CapameshError) -> None:
        """Take the error of a call that nobody has answered and nobody will; it has no traceback."""
        ...


@mypyc_attr(native_class=False)
class Handle(Protocol):
    """A call that is under way, or over."""

    __slots__ = ()

    @property
    def picker(self) -> RequestPicker | None:
        """The picker that can explain where the call went, also when that is over; None: it has not set off."""
        ...

    def cancel(self) -> None:
        """Withdraw the call, of which the responder is not told any more; nothing happens when it is over."""
        ...
