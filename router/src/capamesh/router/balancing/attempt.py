"""One send of a request: to whom, over which link, since when, and what became of it. IO: its link.

There is one object for it, whoever looks: the request's attempts keep their times and its end in it, the link tells it
the answer, and an explanation reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mypy_extensions import mypyc_attr
from typing_extensions import override

from capamesh.protocol.links.handlers import ResponseHandler
from capamesh.router.fleet.replica import Replica

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.links.events import Answer
    from capamesh.protocol.links.handlers import PartsHandler
    from capamesh.router.fleet.node_link import NodeLink


@mypyc_attr(native_class=False)
class AttemptOwner(Protocol):
    """The owner of an attempt: it has sent a request over a link, and is told what comes back."""

    __slots__ = ()

    def take_answer(self, attempt: Attempt, answer: Answer) -> None:
        """Take a node's answer to an attempt."""
        ...

    def take_part(self, attempt: Attempt, part: Answer) -> PartsHandler | None:
        """Take the first part of a node's answer; return who takes all that follows it, None if that is not wanted."""
        ...

    def take_failure(self, attempt: Attempt, error: CapameshError) -> None:
        """Take that a node has refused an attempt or failed, or that its link has ended."""
        ...


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """The record of one attempt and its outcome, for people."""

    replica: Replica
    sent_s: float
    ended_s: float | None
    """The time at which it ended; None while it is under way."""
    outcome: str


class Attempt(ResponseHandler):
    """One send of the request, until it ends and after."""

    __slots__ = (
        "answer",
        "end",
        "ended_s",
        "is_death",
        "is_silent",
        "is_unsent",
        "judged_s",
        "link",
        "number",
        "owner",
        "replica",
        "sent_s",
        "silent_s",
        "stream",
    )

    def __init__(self, number: int, replica: Replica, sent_s: float, silent_s: float) -> None:
        self.number = number
        self.replica = replica
        self.sent_s = sent_s
        self.judged_s = sent_s
        """The time at which `silent_s` was computed."""
        self.silent_s = silent_s
        """The time from which on its silence is a fault."""
        self.is_silent = False
        self.is_death = False
        """True if its process seems to have ended while it ran the request."""
        self.is_unsent = False
        """True if no byte of it left."""
        self.end: CapameshError | str = "under way"
        self.ended_s: float | None = None
        self.answer: InferAnswer | None = None
        """The node's, until it is passed on."""
        self.owner: AttemptOwner | None = None
        """The owner, set with the link; None while nothing has been sent, or once nothing of what may come is wanted."""
        self.link: NodeLink | None = None
        self.stream = 0
        """The number of its stream on the link."""

    @override
    def answered(self, answer: Answer) -> None:
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.take_answer(self, answer)

    @override
    def failed(self, error: CapameshError) -> None:
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.take_failure(self, error)

    def withdraw(self) -> None:
        """Withdraw it from its link if it is under way there: its answer is not wanted any more."""
        owner, self.owner = self.owner, None
        if owner is not None and self.link is not None:
            self.link.withdraw(self.stream)

    def settle(self) -> None:
        """Keep what the error says in its place, once its request is over: whoever raises that keeps frames with it."""
        if not isinstance(self.end, str):
            self.end = f"{self.end.code}: {self.end.message}"

    def record(self) -> AttemptRecord:
        """Return what became of it, for people."""
        end = self.end if isinstance(self.end, str) else f"{self.end.code}: {self.end.message}"
        outcome = f"silent, {end}" if self.is_silent else end
        return AttemptRecord(self.replica, self.sent_s, self.ended_s, outcome)
