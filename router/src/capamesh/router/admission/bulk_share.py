"""The rows of batch jobs that one node may have at one time. Pure."""

from __future__ import annotations

from typing import Final

BULK_PART: Final = 0.25
"""The part of a node's limit that jobs may fill (guess: a limit is two seconds of work, and half a second is a wait that
nobody minds)."""
BUSY_BATCHES: Final = 2
"""The batches that a node may have of jobs in any case, so that one waits when another ends (guess; the limit of a node
that is twice as slow as its profile is four batches, a quarter of which is one)."""
MOST_PART: Final = 0.5
"""The part of its limit that a node itself lets bulk requests have; more would be refused there."""
NO_LIMIT_ROWS: Final = 1 << 31
"""The room where nobody is refused."""


def bulk_share(limit_rows: float, best_rows: int) -> float:
    """Return the rows of jobs that a node with that limit, whose best batch has `best_rows`, may have at one time."""
    busy_rows = BUSY_BATCHES * max(1, best_rows)
    return max(BULK_PART * limit_rows, min(busy_rows, MOST_PART * limit_rows))
