"""The number of a router's calls of jobs in flight: as many as the fleet has room for beside what people wait for. Pure.

Two bounds hold at once. The router's admission lets in a share of what the nodes' limits allow (`admission.bulk`), without
chance: a refusal that is certain need not be tried. `Pace` goes up while calls are answered in time and down when nodes refuse or slow
down, but never by lateness below what keeps each node at work: people's requests pass those of jobs at the node itself, so a call
that is late because of them takes nothing from them. The steps are those of AIBrix's batch client, which has only its own errors to go by.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

WINDOW: Final = 8
"""The answers after which the pace changes (AIBrix)."""
STEP: Final = 1.0
"""The calls that a good window adds (AIBrix)."""
PROBING_PART: Final = 0.25
"""The part of itself that a good window adds to the pace until the first bad one (AIBrix)."""
OVERLOADED_PART: Final = 0.1
"""The part of a window that nodes refused which makes it bad (AIBrix)."""
OVERLOADED_TIMES: Final = 0.9
"""The pace after a window of refusals, as a part of the one before (AIBrix)."""
SLOW_TIMES: Final = 0.8
"""The pace after a window of late answers, as a part of the one before (AIBrix)."""
LATE_TIMES: Final = 2.0
"""An answer is late that took so many times what was expected (guess: a call's deadline is as long)."""
BACKOFF_S: Final = 0.5
"""Seconds of rest after the second window of refusals in a row; they double with each further one (AIBrix)."""
MOST_BACKOFF_S: Final = 10.0
"""The longest rest (AIBrix)."""
PATIENT_WINDOWS: Final = 2
"""The windows of refusals in a row after which the router rests (AIBrix)."""
LEAST: Final = 1.0
"""The least pace: one call finds out whether there is room again."""
CALLS_A_NODE: Final = 2
"""The calls for each node that it begins with and that late answers leave: one that is run, and one that waits meanwhile (with one,
a node rests for the way there and back after each call: benchmarks/bulk_node.py)."""


class Outcome(Enum):
    """The outcomes of a call, as far as they tell of room."""

    ANSWERED = "answered"
    OVERLOADED = "overloaded"
    """The node had no room, and did not run it."""


class Pace:
    """The calls in flight of the jobs of one model at one router. Every `now_s` is on a clock that never goes back."""

    def __init__(self, most: int) -> None:
        """Begin with one call, and never have more than `most`."""
        self._most = float(max(1, most))
        self._pace = LEAST
        self._is_probing = True
        self._is_first = True
        self._busy = LEAST
        """The calls that keep all nodes at work."""
        self._answers = 0
        self._refused = 0
        self._late = 0
        self._bad_windows = 0
        self._rest_until_s = -float("inf")

    @property
    def most_in_flight(self) -> int:
        """The calls that may be in flight, while there is no rest."""
        return int(self._pace)

    def take_nodes(self, nodes: int) -> None:
        """Take in how many nodes there are: until the first window has ended they are given their first calls."""
        self._busy = min(self._most, float(CALLS_A_NODE * nodes))
        if self._is_first:
            self._pace = max(self._pace, self._busy)

    def room(self, in_flight: int, now_s: float) -> int:
        """Return how many calls may start now."""
        return 0 if now_s < self._rest_until_s else max(0, int(self._pace) - in_flight)

    def record(self, outcome: Outcome, took_s: float, expected_s: float, now_s: float) -> None:
        """Take in what came of a call and how long it took, where `expected_s` was expected."""
        self._answers += 1
        if outcome is Outcome.OVERLOADED:
            self._refused += 1
        elif took_s > LATE_TIMES * expected_s:
            self._late += 1
        if self._answers >= WINDOW:
            self._end_window(now_s)

    def _end_window(self, now_s: float) -> None:
        self._is_first = False
        if self._refused >= OVERLOADED_PART * WINDOW:
            self._lower(OVERLOADED_TIMES)
            self._bad_windows += 1
            if self._bad_windows >= PATIENT_WINDOWS:
                rest_s = BACKOFF_S * 2.0 ** min(self._bad_windows - PATIENT_WINDOWS, 10)
                self._rest_until_s = now_s + min(rest_s, MOST_BACKOFF_S)
        else:
            self._bad_windows = 0
            if self._late * 2 >= WINDOW:
                self._lower(SLOW_TIMES, min(self._pace, self._busy))
            else:
                more = max(STEP, PROBING_PART * self._pace) if self._is_probing else STEP
                self._pace = min(self._most, self._pace + more)
        self._answers = self._refused = self._late = 0

    def _lower(self, times: float, least: float = LEAST) -> None:
        self._is_probing = False
        self._pace = min(self._most, max(least, self._pace * times))
