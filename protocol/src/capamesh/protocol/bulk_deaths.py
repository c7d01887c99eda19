"""Ends of one worker that are put down to bulk requests and to nothing else, as many as may be. Pure.

Rows of a batch job that end a worker must not cost a model its place: the row is found and run no more. So such an end says
nothing of the model, of its other requests, or of the node. But who may send bulk requests could hide anything behind them. So
only `MOST` ends in `WITHIN_S` are put down to them; a worker that has had as many takes no bulk request for a while, and what
ends it then is judged as ever.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from typing_extensions import override

MOST: Final = 8
"""The ends in `WITHIN_S` that are put down to bulk requests (guess: the bad rows of one shard; each costs all models of the
worker a second or two)."""
WITHIN_S: Final = 600.0
"""Seconds (guess: one end in 75 s on average costs a model a fiftieth of its time)."""


class BulkDeaths:
    """The ends of one worker of late. Every `now_s` is on a clock that never goes back."""

    __slots__ = ("_times_s",)

    def __init__(self) -> None:
        self._times_s: deque[float] = deque(maxlen=MOST)

    @override
    def __repr__(self) -> str:
        return f"BulkDeaths({len(self._times_s)} of {MOST})"

    def excuse(self, now_s: float) -> bool:
        """Put an end down to bulk requests and return True; False: there were too many of late."""
        if self.left_s(now_s) > 0:
            return False
        self._times_s.append(now_s)
        return True

    def left_s(self, now_s: float) -> float:
        """Return the seconds until another may be put down to them; 0: now."""
        times_s = self._times_s
        while times_s and times_s[0] <= now_s - WITHIN_S:
            times_s.popleft()
        return times_s[0] + WITHIN_S - now_s if len(times_s) >= MOST else 0.0
