"""Bounds what a client asks of a connection that comes to nothing: resets, pings, settings, window updates. Pure."""

from __future__ import annotations

from typing import Final

MOST: Final = 500.0
"""Such frames at once (guess: five times as many as streams may be open, each of which may be given up)."""
A_SECOND: Final = 100.0
"""Such frames a second beside those that are earned (guess: an impatient client, which gives up each request)."""
FOR_A_CALL: Final = 4.0
"""Such frames for each call that ended well: two windows and a ping (guess)."""
BYTES_FOR_ONE: Final = 1024
"""The bytes of answers for which a window update is due; gRPC's clients send one for 4 KiB and more (guess)."""


class Calm:
    """A bucket of such frames, which time and work fill."""

    __slots__ = ("_left", "_seen_s")

    def __init__(self, now_s: float) -> None:
        self._left = MOST
        self._seen_s = now_s

    def earn(self, size_bytes: int = 0) -> None:
        """Fill it for a call that has ended, or for bytes that were sent."""
        self._left += size_bytes / BYTES_FOR_ONE if size_bytes else FOR_A_CALL

    def earn_calls(self, count: int) -> None:
        """Fill it for so many calls that have ended."""
        self._left += count * FOR_A_CALL

    def spend(self, now_s: float) -> bool:
        """Take one; False: it is empty."""
        self._left = min(MOST, self._left + (now_s - self._seen_s) * A_SECOND) - 1.0
        self._seen_s = now_s
        return self._left >= 0.0
