"""The length of a shard: some seconds of work, and no more bytes than a router holds of it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from capamesh.router.requests.embedding_request import MOST_BYTES

SHARD_S: Final = 5.0
"""Seconds of measured work in a shard: a third of a lease (guess)."""
LEAST_BATCHES: Final = 4
"""A shard has at least so many of the node's best batches: the last of them is seldom full (guess)."""
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
LENGTHEN_EVERY: Final = 20_000
"""Shards become twice as long after each so many, so that a plan of any size has a bound (guess: 45,000 for 20,000,000 rows
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
    wanted = max(math.ceil(SHARD_S * max(0.0, rows_per_s)), LEAST_BATCHES * max(1, best_rows))
    return ShardLimits(min(wanted, most), most_rows=most)
