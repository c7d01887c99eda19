"""Tells of requests that have ended: the last that failed or were slow are kept, and a tracer hears of all that it may want. Pure.

What is kept is kept by kind, which is a model and a code, so a flood of one failure drives no other out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.plain_text import plain

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.router.telemetry.request_lines import AccessLog, SlowLog
    from capamesh.router.telemetry.tracing import RequestTimes, Tracer

SLOW_S: Final = 1.0
"""A request that takes longer is one to be looked at (guess: people notice a second)."""
MOST_KINDS: Final = 100
"""The most kinds that are kept, those that were seen last (guess: more than somebody looks through)."""
MOST_OF_A_KIND: Final = 5
"""The most requests of one kind that are kept; the others are counted (guess: enough to see whether they are alike)."""
MOST_CHARS: Final = 300
"""The most characters of a text that comes from elsewhere (guess: two lines)."""


class _Kind:
    """The requests of one model that ended with one code."""

    __slots__ = ("count", "error", "last_s", "newest")

    def __init__(self) -> None:
        self.count = 0
        self.error = ""
        """The newest error's text."""
        self.last_s = 0.0
        self.newest: deque[RequestTimes] = deque(maxlen=MOST_OF_A_KIND)
        """The newest requests of which the times were told, the last of them last."""


class EndedRequests:
    """The requests that have ended: the newest that failed or took longer than `SLOW_S`, and who else is told."""

    __slots__ = (
        "_clock",
        "_kinds",
        "_tracer",
        "_wall_clock",
        "access",
        "has_tracer",
        "is_logging",
        "slow",
        "slow_s",
    )

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        tracer: Tracer | None = None,
        access: AccessLog | None = None,
        slow: SlowLog | None = None,
    ) -> None:
        """`clock` is the one that requests' times are of, `wall_clock` gives seconds since 1970.

        `access` and `slow` are the logs that requests are written to; None: there is no such log.
        """
        self._clock = clock
        self._wall_clock = wall_clock
        self._tracer = tracer
        self.has_tracer = tracer is not None
        self.access = access
        self.slow = slow
        self.is_logging = access is not None or slow is not None
        self._kinds: dict[tuple[str, str], _Kind] = {}
        """The kinds by model and code, the one that was seen last at the end."""
        self.slow_s = SLOW_S if tracer is None else min(SLOW_S, tracer.slow_s)
        """An answered request that took less need not be told, unless its caller traces it."""

    def failed(self, model: str, error: CapameshError) -> None:
        """Count a request that failed, of a model, "" if nobody hosts it. `ended` may tell its times afterwards."""
        kind = self._seen(model, error.code)
        kind.count += 1
        kind.error = error.message[:MOST_CHARS]

    def ended(self, times: RequestTimes) -> None:
        """Take the times of a request that has ended. One that failed was counted before, by `failed`."""
        if times.code != "ok":
            # anyone can invent names of models, so those that nobody hosts were counted as one
            is_named = (times.model, times.code) in self._kinds
            self._seen(times.model if is_named else "", times.code).newest.append(times)
        elif times.ended_s - times.started_s > SLOW_S:
            kind = self._seen(times.model, times.code)
            kind.count += 1
            kind.newest.append(times)
        if self._tracer is not None:
            self._tracer.ended(times)

    def rows(self) -> list[dict[str, Any]]:
        """Return the kinds, the one that was seen last first: durations in seconds, moments in seconds since 1970."""
        offset_s = self._wall_clock() - self._clock()
        return [
            {
                "model": model,
                "code": code,
                "count": kind.count,
                "last_at": round(offset_s + kind.last_s, 3),
                "error": plain(kind.error),
                "newest": [_row(times, offset_s) for times in reversed(kind.newest)],
            }
            for (model, code), kind in reversed(self._kinds.items())
        ]

    def _seen(self, model: str, code: str) -> _Kind:
        """Return a kind that is seen now; the one that was not seen for longest gives way to a new one."""
        kinds, key = self._kinds, (model, code)
        kind = kinds.pop(key, None)
        if kind is None:
            kind = _Kind()
            if len(kinds) >= MOST_KINDS:
                del kinds[next(iter(kinds))]
        kinds[key] = kind
        kind.last_s = self._clock()
        return kind


def _row(times: RequestTimes, offset_s: float) -> dict[str, Any]:
    return {
        "model": plain(times.model[:MOST_CHARS]),
        "version": times.version,
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
                "outcome": plain(each.outcome[:MOST_CHARS]),
            }
            for each in times.attempts
        ],
    }


def _seconds(value: float) -> float:
    return round(value, 6) if math.isfinite(value) else 0.0
