"""The states of a job and of its shards, and which may follow which. Pure.

The table of moves is data: the store takes from it the states that a statement may start from, so that two routers that
move one job at once cannot both succeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobState(StrEnum):
    """The state of a job."""

    PLANNING = "planning"
    """A router reads the input and cuts it into shards."""
    RUNNING = "running"
    """Routers lease its shards."""
    BLOCKED = "blocked"
    """Nobody can run it now, for the reason that it tells: no node has its model, say."""
    PAUSED = "paused"
    """A person holds it; what was leased may still be committed."""
    COMPLETED = "completed"
    """Every row has a result or is a bad row."""
    FAILED = "failed"
    """The job cannot be done, for the reason that it tells; what was done is kept, as in the two states below."""
    EXPIRED = "expired"
    """The job's deadline came first."""
    CANCELLED = "cancelled"
    """A person ended it."""


_ENDS: Final = frozenset({JobState.FAILED, JobState.EXPIRED, JobState.CANCELLED})

MOVES: Final[Mapping[JobState, frozenset[JobState]]] = MappingProxyType(
    {
        JobState.PLANNING: frozenset({JobState.RUNNING}) | _ENDS,
        JobState.RUNNING: frozenset({JobState.BLOCKED, JobState.PAUSED, JobState.COMPLETED})
        | _ENDS,
        JobState.BLOCKED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.COMPLETED})
        | _ENDS,
        JobState.PAUSED: frozenset({JobState.RUNNING, JobState.COMPLETED}) | _ENDS,
        JobState.COMPLETED: frozenset[JobState](),
        JobState.FAILED: frozenset[JobState](),
        JobState.EXPIRED: frozenset[JobState](),
        JobState.CANCELLED: frozenset[JobState](),
    }
)
"""The states that may follow each state."""

ENDED: Final = frozenset(state for state, after in MOVES.items() if not after)
"""The states that a job never leaves."""
UNDER_WAY: Final = frozenset(MOVES) - ENDED
COMMITTING: Final = frozenset({JobState.RUNNING, JobState.BLOCKED, JobState.PAUSED})
"""The states in which results are taken: what was leased before a pause may end in it."""


def before(state: JobState) -> tuple[JobState, ...]:
    """Return the states that `state` may follow, in the order of their names."""
    return tuple(sorted(each for each, after in MOVES.items() if state in after))


class ShardState(StrEnum):
    """The state of a shard."""

    OPEN = "open"
    """Nobody has it."""
    LEASED = "leased"
    """A router has it, or had it until its lease ended."""
    DONE = "done"
    """The shard's manifest is committed: it never changes again."""
