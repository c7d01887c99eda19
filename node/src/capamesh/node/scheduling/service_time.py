"""Predicts and measures how long runs take: from the profile at load, corrected by what is seen. Pure."""

from __future__ import annotations

from typing import Final

from capamesh.node.scheduling.service_profile import ServiceProfile

SMOOTHING: Final = 0.1
"""Weight of the newest run (guess: follows ten runs)."""
MOST_LONGER: Final = 10.0
"""A run counts for at most so many times what was predicted (guess): one in which the process was stopped or the
machine slept says nothing of the next. A device that is a hundred times slower is half known for it after ten runs.
Found with benchmarks/chaos.py: a node that had been frozen for 16 s was sent nothing in the 12 s after."""
FIRST_GUESS_S: Final = 1.0
"""A run of a model that was never measured: long, so that nothing relies on its being short."""


class ServiceTime:
    """Seconds of a run by its rows."""

    def __init__(self, profile: ServiceProfile | None) -> None:
        self._profile = profile
        self._known: dict[int, float] = {}
        self._seen: dict[int, float] = {}
        self.slowdown = 1.0
        """Measured over expected, smoothed: above 1 the device has less to give than at load."""
        self.run_s = profile.seconds_at(1) if profile else 0.0
        """The time of a run, smoothed, whatever its rows."""

    def expected_s(self, rows: int) -> float:
        """Return how long a run of `rows` should take on a quiet device."""
        rows = max(rows, 1)
        known = self._known.get(rows)
        if known is None:
            if self._profile is not None:
                known = self._profile.seconds_at(rows)
                if len(self._known) < 4096:
                    self._known[rows] = known
            else:
                known = self._learnt_s(rows)
        return known

    def predicted_s(self, rows: int) -> float:
        """Return how long a run of `rows` would take now."""
        return self.expected_s(rows) * self.slowdown

    def ran(self, rows: int, seconds: float) -> float:
        """Take a run into account; return how many times longer than expected it took."""
        rows = max(rows, 1)  # an empty request's run takes what a row's takes
        expected_s = self.expected_s(rows)
        if self._profile is not None or self._seen:
            seconds = min(seconds, MOST_LONGER * expected_s * self.slowdown)
        self.run_s = self.run_s + SMOOTHING * (seconds - self.run_s) if self.run_s else seconds
        ratio = seconds / max(expected_s, 1e-9)
        if self._profile is None:
            bucket = rows.bit_length()
            self._seen[bucket] = self._seen.get(bucket, seconds / rows) * (1 - SMOOTHING) + (
                SMOOTHING * seconds / rows
            )
            ratio = 1.0 if len(self._seen) == 1 else ratio
        self.slowdown += SMOOTHING * (ratio - self.slowdown)
        return ratio

    def _learnt_s(self, rows: int) -> float:
        if not self._seen:
            return FIRST_GUESS_S
        bucket = rows.bit_length()
        nearest = min(self._seen, key=lambda seen: (abs(seen - bucket), seen))
        return self._seen[nearest] * rows
