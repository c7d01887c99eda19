"""Counts the calls of jobs that have ended here, by what came of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from capamesh.router.jobs.running.verdict import Verdict

OK: Final = "ok"
"""The outcome of a call whose rows were answered."""
REFUSED: Final = "refused"
"""The outcome of a call that no node had room for: nothing was run, and it waits for room."""
RETRIED: Final = "retried"
"""The outcome of a call that failed, or may have, for a reason that is not known to be its rows': they are sent again as they are."""
FAILED: Final = "failed"
"""The outcome of a call that failed for what it is: its rows are wrong, the model fails on them, or no node may run it."""
OUTCOMES: Final = (OK, REFUSED, RETRIED, FAILED)
_OUTCOMES: Final[Mapping[Verdict, str]] = MappingProxyType(
    {
        Verdict.ANSWERED: OK,
        Verdict.FULL: REFUSED,
        Verdict.AGAIN: RETRIED,
        Verdict.UNSENT: RETRIED,
        Verdict.DIED: RETRIED,
        Verdict.FAILED: FAILED,
        Verdict.REFUSED: FAILED,
        Verdict.NOBODY: FAILED,
        Verdict.OVER_QUOTA: FAILED,
    }
)


class CallCounts:
    """The calls of one router's process that have ended; those that were withdrawn are none of them."""

    def __init__(self) -> None:
        self._of: dict[str, int] = dict.fromkeys(OUTCOMES, 0)

    def count(self, verdict: Verdict) -> None:
        """Count a call that ended so."""
        self._of[_OUTCOMES[verdict]] += 1

    def values(self) -> Mapping[str, int]:
        """Return how many calls had each outcome."""
        return MappingProxyType(self._of)
