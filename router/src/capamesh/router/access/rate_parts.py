"""The part of a rate that one of several processes gives out by itself until it hears of the others again. Pure."""

from __future__ import annotations

from typing import Final

MOST_DEBT_S: Final = 10.0
"""The most seconds of a rate that are made up for (guess): what was used while the store is out of reach is told late, all at once."""
PAY_BACK_S: Final = 4.0
"""The seconds of a rate above it at which all processes slow down as far as they may (guess)."""
SLOWEST: Final = 0.1
"""The least part of a rate that is given out (guess): a client is told of a time after which to come again."""


def next_part(part: float, rate: float, used_per_s: float, others: int, is_in_debt: bool) -> float:
    """Return the part of `rate` to give out next, after `part`, where `others` processes have used so much a second.

    It is what they leave, and an equal part at least. It is lowered at once and raised in steps, for all move at a time;
    in debt it is not raised, for the others may be silent for theirs.
    """
    if others == 0:
        return rate
    left = min(rate - used_per_s, rate)  # totals may shrink, where a store was put back
    wanted = max(left, rate / (others + 1))
    if wanted <= part:
        return wanted
    return part if is_in_debt else part + (wanted - part) / (others + 1)


def pace(ahead_s: float) -> float:
    """Return how much of its part a process gives out where all together have given out `-ahead_s` seconds' worth too much; from 0: all."""
    return max(SLOWEST, 1.0 + min(ahead_s, 0.0) / PAY_BACK_S)
