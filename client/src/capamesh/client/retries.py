"""Decides whether a request that failed is sent again, and after how long. Pure but for a lock.

A request is sent again if it certainly did not run and waiting helps: its router refused it and named a time, or could not be
reached. One that may have run is sent again only with an idempotency key, by which the router knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from capamesh.client.asks import CutOff, Unreachable
from capamesh.protocol.errors import (
    CapameshError,
    ConfigError,
    KeysUnavailable,
    NoEndpoint,
    ShutOut,
    Unsatisfiable,
    is_refusal,
)

DEFAULT_RETRIES: Final = 2
"""The times that an inference is sent again (what OpenAI's client does)."""
MOST_RETRIES: Final = 20
"""The most that can be asked for (guess: whoever waits longer wants a queue)."""
COST: Final = 10
"""The tokens that a retry takes, where each success gives one: a router in trouble is asked a tenth more at most (gRPC's ratio)."""
BUDGET: Final = 100
"""The most tokens of a client, and what it begins with: 10 retries, however few of its requests succeed (gRPC's throttling)."""
BACKOFF_S: Final = 0.1
"""The wait before the first retry where no time was named; it doubles (gRPC's usual first wait)."""
MOST_BACKOFF_S: Final = 2.0
"""The longest wait where no time was named (guess: a router starts in that time)."""
SPREAD: Final = 0.25
"""The part by which a wait may be longer, so that clients who were refused together do not come together (guess)."""


class Retries:
    """The retries of all of a client's requests, which are bounded together, too; threads may share it."""

    def __init__(self, most: int, draw: Callable[[], float]) -> None:
        """Send each request again `most` times at most; `draw` returns a random number from 0 to below 1.

        Raises:
            ConfigError: `most` is no whole number from 0 to 20.
        """
        if type(most) is not int or not 0 <= most <= MOST_RETRIES:
            raise ConfigError(
                f"retries is {most!r:.80}; a whole number from 0 to {MOST_RETRIES} is expected"
            )
        self._most = most
        self._draw = draw
        self._tokens = BUDGET
        self._lock = Lock()

    def succeeded(self) -> None:
        """Note that a request succeeded."""
        with self._lock:
            self._tokens = min(BUDGET, self._tokens + 1)

    def wait_s(
        self, error: CapameshError, *, attempts: int, left_s: float, is_idempotent: bool
    ) -> float | None:
        """Return after how many seconds to send again what failed with `error`; None: not again.

        Args:
            error: the error of the last attempt.
            attempts: the times that the request was sent.
            left_s: the seconds that its caller still waits.
            is_idempotent: whether the router that ran it already does not run it again, by its idempotency key.
        """
        if attempts > self._most:
            return None
        if _is_refused(error):
            wait_s = error.retry_after_s
        elif isinstance(error, Unreachable) or (is_idempotent and isinstance(error, CutOff)):
            wait_s = min(MOST_BACKOFF_S, BACKOFF_S * 2 ** (attempts - 1))
        else:
            return None
        wait_s *= 1 + SPREAD * self._draw()
        if wait_s >= left_s:
            return None
        with self._lock:
            if self._tokens < COST:
                return None
            self._tokens -= COST
        return wait_s


def _is_refused(error: CapameshError) -> bool:
    """Return whether nothing has run and who refused named a time after which to come again."""
    if error.retry_after_s <= 0 or isinstance(error, Unsatisfiable | ShutOut):
        return False
    return is_refusal(error) or isinstance(error, NoEndpoint | KeysUnavailable)
