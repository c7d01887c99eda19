"""Tells after which runs a model's memory pool should give back what it holds. Pure.

ONNX Runtime's pools keep the peak of all runs. Giving back costs up to 40 % of a run that fills 40 MB
tensors by cheap operators, nothing at all of a small one (measured), so it is not done after every run.
"""

from __future__ import annotations

from typing import Final

WINDOW_RUNS: Final = 64  # guess: seconds of a large model, a moment of a small one
UNUSUAL_RATIO: Final = 4  # guess: a batch of 8 beside ones of 2 is ordinary


class ArenaWatch:
    """Compares the size of a run's inputs with those of the last windows of `WINDOW_RUNS` runs.

    Threads may share one: what they overwrite of each other moves a decision by a few runs.
    """

    __slots__ = ("_before", "_largest", "_runs")

    def __init__(self) -> None:
        self._runs = 0
        self._largest = 0
        self._before = 0

    def is_due(self, size_bytes: int) -> bool:
        """Say whether the pool should shrink after the run of inputs of `size_bytes` in all.

        It is due when the run is much larger than those before it, so that nothing else will need
        that memory soon, and when runs have become much smaller.
        """
        usual = max(self._largest, self._before)
        self._largest = max(self._largest, size_bytes)
        self._runs += 1
        has_declined = False
        if self._runs >= WINDOW_RUNS:
            has_declined = self._before > UNUSUAL_RATIO * self._largest
            self._runs, self._before, self._largest = 0, self._largest, 0
        return has_declined or size_bytes > UNUSUAL_RATIO * usual
