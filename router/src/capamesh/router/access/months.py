"""The months by which usage is limited: those of UTC. Pure."""

from __future__ import annotations

import datetime as dt
import math
from typing import Final

HOUR_S: Final = 3600
UNHEARD: Final = 4
"""The processes that rows are kept for until it is known how many use a key (guess: more than most networks have)."""
SURE: Final = 2
"""The times to hear of the others before that is known: those that began together have not written yet at the first."""
LEAST_ROWS: Final = 32
"""The rows that a process may always use before it hears of the others (guess: next to nothing of what is worth a limit)."""


def month_of(wall_s: float) -> str:
    """Return the month (UTC) of a time in seconds since 1970, as `2026-11`."""
    return dt.datetime.fromtimestamp(wall_s, dt.UTC).strftime("%Y-%m")


def seconds_left(hour: int) -> float:
    """Return the seconds from the beginning of an hour, counted since 1970, to that of the next month (UTC)."""
    now = dt.datetime.fromtimestamp(hour * HOUR_S, dt.UTC)
    next_month = (now.replace(day=1, hour=0) + dt.timedelta(days=32)).replace(day=1)
    return (next_month - now).total_seconds()


def part_of_rows(most: int, used: int, sharers: int, heard: int) -> float:
    """Return the rows of a month that one process may use before it hears of the others again.

    `most` is what all may, and `used` what they have; `sharers` use the key by now, as it was `heard` so many times. An equal
    part of half of the rest, for what the others have not written yet is not in `used` (measured, three processes at any rate:
    0.6 % too much; of the whole rest up to 19 %, and without a part 60 %).
    """
    if heard < SURE:
        sharers = max(sharers, UNHEARD)
    elif sharers == 1:
        return math.inf
    return max((most - used) / (2 * sharers), LEAST_ROWS)
