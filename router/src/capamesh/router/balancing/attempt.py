"""One send of a request: to whom, since when, and what became of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.router.fleet.replica import Replica


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """What became of one attempt, for people."""

    replica: Replica
    sent_s: float
    ended_s: float | None
    """None while it is under way."""
    outcome: str


class Attempt:
    """One send of the request, until it ends and after."""

    __slots__ = (
        "end",
        "ended_s",
        "is_death",
        "is_silent",
        "is_unsent",
        "judged_s",
        "number",
        "replica",
        "sent_s",
        "silent_s",
    )

    def __init__(self, number: int, replica: Replica, sent_s: float, silent_s: float) -> None:
        self.number = number
        self.replica = replica
        self.sent_s = sent_s
        self.judged_s = sent_s
        """When `silent_s` was reckoned."""
        self.silent_s = silent_s
        """When its silence is a fault."""
        self.is_silent = False
        self.is_death = False
        """Whether its process ended while it ran it, as it seems."""
        self.is_unsent = False
        """Whether no byte of it left."""
        self.end: CapameshError | str = "under way"
        self.ended_s: float | None = None

    def settle(self) -> None:
        """Keep what the error says in its place, once its request is over: whoever raises that keeps frames with it."""
        if not isinstance(self.end, str):
            self.end = f"{self.end.code}: {self.end.message}"

    def record(self) -> AttemptRecord:
        """Return what became of it, for people."""
        end = self.end if isinstance(self.end, str) else f"{self.end.code}: {self.end.message}"
        outcome = f"silent, {end}" if self.is_silent else end
        return AttemptRecord(self.replica, self.sent_s, self.ended_s, outcome)
