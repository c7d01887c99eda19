"""The length of a planned shard, and the most bytes that a router holds of one. Pure.

Nobody knows what rows cost when they are planned, so planned shards are short, and a lease takes several of them (`running/shard_size.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from capamesh.router.requests.embedding_request import MOST_BYTES

SHARD_S: Final = 0.05
"""Seconds of work in a planned shard, by what nodes say of a row: at work, rows may cost ten times as much (guess)."""
MAX_SHARD_BYTES: Final = 64 * 2**20
"""The most bytes of a shard, in and out each; one row may not have more (guess: a router has some of them at a time)."""
MAX_FILE_COLUMNS: Final = 10_000
"""The most columns of a file (guess: tables of features have thousands)."""
MAX_ID_CHARS: Final = 500
"""The longest name of a row (guess: a path or a URL)."""
NAMES_AT_ONCE: Final = 2000
"""The names of requests, or lines with them, that are given on at a time (guess: a megabyte at most)."""
MAX_REQUEST_BYTES: Final = MOST_BYTES + 64 * 1024
"""The most bytes of a line that is a request: those of the largest body, and what is around it."""
PIECE_RANGES: Final = 1000
"""The most ranges of a piece of a plan, which a store adds while others wait (measured: some milliseconds)."""
MAX_SHARD_ROWS: Final = 10_000_000
"""The most rows of a shard, however quick the model is (guess)."""
LENGTHEN_EVERY: Final = 5_000
"""Shards become twice as long after each so many, so that a plan of any size has a bound (guess: 35,000 for 20,000,000 rows
of a model of 50 rows a second)."""


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """The bounds of a shard."""

    rows: int
    """The rows of the first shards."""
    in_bytes: int = MAX_SHARD_BYTES
    most_rows: int = MAX_SHARD_ROWS
    """The most rows of any shard, for the bytes of their results."""

    def rows_at(self, seq: int) -> int:
        """Return the most rows of the shard with a number."""
        return min(self.rows << min(seq // LENGTHEN_EVERY, 40), self.most_rows)


def shard_limits(rows_per_s: float, best_rows: int, out_row_bytes: int) -> ShardLimits:
    """Return the bounds for a model: what it runs a second, its best batch, and the bytes of a row's results, 0 if not known."""
    most = MAX_SHARD_ROWS
    if out_row_bytes > 0:
        most = max(1, min(most, MAX_SHARD_BYTES // out_row_bytes))
    best = max(1, best_rows)
    batches = max(1, math.ceil(SHARD_S * max(0.0, rows_per_s) / best))  # whole ones
    return ShardLimits(min(batches * best, most), most_rows=most)
