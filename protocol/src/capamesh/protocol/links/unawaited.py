"""Bounds the frames of a peer that nobody awaits: pings, cancellations, credits, leftovers of streams that are closed. Pure.

Each is cheap to send and costs whoever receives it some microseconds, so that a member which sends nothing else would have a
process to itself.
"""

from __future__ import annotations

import math
from typing import Final

from capamesh.protocol.links.frames import LinkLimits

MOST: Final = 5 * LinkLimits().streams
"""Such frames at once (guess: all streams that may be open are given up, and the chunks of some large answers were on their way)."""
A_SECOND: Final = 5_000.0
"""Such frames a second beside those that are earned (guess: some 2 % of a core; a healthy link has two pings in four seconds)."""
FOR_A_MESSAGE: Final = 4
"""Such frames for each message that was sent (guess: a credit, a release, a cancellation that crosses an answer, a probe)."""
SMALL_CHUNK_BYTES: Final = 1024
"""A smaller chunk that is not its message's last one counts as such a frame, too (guess: senders fill 256 KiB)."""


class UnawaitedFrames:
    """A bucket of such frames, which time and work fill."""

    __slots__ = ("_left", "_seen_s")

    def __init__(self) -> None:
        self._left = float(MOST)
        self._seen_s = math.inf

    def are_borne(self, count: int, sent: int, now_s: float) -> bool:
        """Take `count` frames that have come, after `sent` messages that this side has sent; False: it is empty.

        `now_s` is on a clock that never goes back.
        """
        past_s = max(0.0, now_s - self._seen_s)
        self._seen_s = now_s
        earned = past_s * A_SECOND + sent * FOR_A_MESSAGE
        self._left = min(float(MOST), self._left + earned) - count
        return self._left >= 0.0
