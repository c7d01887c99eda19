"""The failures of late: one entry for each model and error code, the newest first. Holds state, does no IO.

A flood of one failure is one entry that counts, so it drives no other out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.plain_text import plain

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError

MOST: Final = 100
"""The most entries (guess: more than anybody reads)."""
MOST_CHARS: Final = 300
"""The most characters of an error's text (guess: two lines)."""


class _Failure:
    """The failures of one model with one code."""

    def __init__(self) -> None:
        self.count = 0
        self.error = ""
        """The newest error's text."""
        self.last_s = 0.0


class Failures:
    """The failures of one router's requests."""

    def __init__(self, *, clock: Callable[[], float], most: int = MOST) -> None:
        """`clock` is in seconds."""
        self._clock = clock
        self._most = most
        self._kept: dict[tuple[str, str], _Failure] = {}
        """The entries, the newest last."""

    def note(self, model: str, error: CapameshError) -> None:
        """Take in that a request of a model, "" if nobody hosts it, was answered with an error."""
        key = (model, error.code)
        failure = self._kept.pop(key, None) or _Failure()
        failure.count += 1
        failure.error = error.message[:MOST_CHARS]
        failure.last_s = self._clock()
        self._kept[key] = failure
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

    def body(self) -> list[dict[str, Any]]:
        """Return them as JSON values, the newest first; ages are in seconds."""
        now_s = self._clock()
        return [
            {
                "model": model,
                "code": code,
                "count": failure.count,
                "error": plain(failure.error),
                "age_s": round(now_s - failure.last_s),
            }
            for (model, code), failure in reversed(self._kept.items())
        ]
