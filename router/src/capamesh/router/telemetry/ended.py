"""Tells of requests that have ended: the last that failed or were slow are kept, and a tracer hears of all that it may want. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from capamesh.router.telemetry.tracing import RequestTimes, Tracer

SLOW_S: Final = 1.0
"""A request that takes longer is one to be looked at (guess: people notice a second)."""
MOST_KEPT: Final = 100
"""Requests that are kept (guess: what somebody looks through)."""


class EndedRequests:
    """The requests that have ended: the newest that failed or took longer than `SLOW_S`, and who else is told."""

    __slots__ = ("_clock", "_kept", "_tracer", "_wall_clock", "has_tracer", "slow_s")

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        tracer: Tracer | None = None,
    ) -> None:
        """`clock` is the one that requests' times are of, `wall_clock` gives seconds since 1970."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._tracer = tracer
        self.has_tracer = tracer is not None
        self._kept: deque[RequestTimes] = deque(maxlen=MOST_KEPT)
        self.slow_s = SLOW_S if tracer is None else min(SLOW_S, tracer.slow_s)
        """An answered request that took less need not be told, unless its caller traces it."""

    def ended(self, times: RequestTimes) -> None:
        """Take a request that has ended."""
        if times.code != "ok" or times.ended_s - times.started_s > SLOW_S:
            self._kept.append(times)
        if self._tracer is not None:
            self._tracer.ended(times)

    def rows(self) -> list[dict[str, Any]]:
        """Return those that are kept, the newest first: durations in seconds, moments in seconds since 1970."""
        offset_s = self._wall_clock() - self._clock()
        return [
            {
                "model": times.model,
                "version": times.version,
                "code": times.code,
                "began_at": round(offset_s + times.started_s, 3),
                "took_s": _seconds(times.ended_s - times.started_s),
                "attempts": [
                    {
                        "peer_id": each.peer,
                        "address": each.address,
                        "after_s": _seconds(each.sent_s - times.started_s),
                        "took_s": _seconds(each.ended_s - each.sent_s),
                        "queue_s": _seconds(each.queue_s),
                        "run_s": _seconds(each.run_s),
                        "outcome": each.outcome,
                    }
                    for each in times.attempts
                ],
            }
            for times in reversed(self._kept)
        ]


def _seconds(value: float) -> float:
    return round(value, 6) if math.isfinite(value) else 0.0
