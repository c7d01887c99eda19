"""Decides how long a client goes on with a job over lost connections and routers that restart. Pure; time and chance are arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from capamesh.protocol.errors import CapameshError, DeadlineExceeded, ModelFailed, ProtocolViolation

PATIENCE_S: Final = 300.0
"""Seconds for which routers may be out of reach in the middle of something: a machine restarts in that time (guess)."""
FIRST_REST_S: Final = 0.2
MOST_REST_S: Final = 10.0
"""The longest wait between two tries, where no time was named (guess)."""
MOST_NAMED_S: Final = 120.0
"""The longest wait that a router, or a proxy, can ask for at a time (guess)."""
SPREAD: Final = 0.25
"""The part by which a wait may be longer, so that clients who were cut off together do not come together (guess)."""


class Patience:
    """The patience of one client with one thing; `succeeded` fills it up again."""

    def __init__(
        self,
        clock: Callable[[], float],
        draw: Callable[[], float],
        *,
        is_known: bool = True,
        most_s: float = PATIENCE_S,
    ) -> None:
        """Begin with all patience; with none before the first success unless `is_known`: then a router has answered before.

        `clock` tells seconds and never goes back; `draw` returns a random number from 0 to below 1.
        """
        self._clock = clock
        self._draw = draw
        self._most_s = most_s
        self._is_known = is_known
        self._failures = 0
        self._since_s = 0.0

    def succeeded(self) -> None:
        """Note that a router has answered."""
        self._is_known = True
        self._failures = 0

    def wait_s(self, error: CapameshError) -> float | None:
        """Return after how many seconds to try again; None: the error is the caller's."""
        if not self._is_known or not is_passing(error):
            return None
        now_s = self._clock()
        if not self._failures:
            self._since_s = now_s
        self._failures += 1
        left_s = self._since_s + self._most_s - now_s
        named_s = min(error.retry_after_s, MOST_NAMED_S)
        rest_s = named_s or min(MOST_REST_S, FIRST_REST_S * 2 ** min(self._failures - 1, 10))
        rest_s *= 1 + SPREAD * self._draw()
        return None if rest_s >= left_s else rest_s


def is_passing(error: CapameshError) -> bool:
    """Return whether the same may succeed later, without anybody changing it."""
    if isinstance(error, ProtocolViolation | ModelFailed):
        return False
    return error.is_retryable or isinstance(error, DeadlineExceeded)
