"""Chooses the requests that are written to the access log or to the log of slow requests, and says what is in a line. Pure.

A line never has a key, a body, or a text of an error, which may repeat parts of a body.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.plain_text import plain

if TYPE_CHECKING:
    from capamesh.router.telemetry.tracing import RequestTimes

MOST_CHARS: Final = 200
"""The most characters of a text that comes from elsewhere (guess: a model's name and a version)."""
BURST: Final = 10
"""The slow requests that are written at once, after a time without any (guess: to see whether they are alike)."""
PER_S: Final = 1.0
"""The slow requests that are written a second from then on (guess: an explanation takes a millisecond in a large fleet)."""
LEAST_FACTOR_S: Final = 0.01
"""A request is not slow before this, whatever is usual for its model (guess: a pause of the garbage collector)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The part of a line that is not the times of its request."""

    wire: str
    client: str = ""
    """The address that it came from; empty if that is not known."""
    tenant: str = ""
    key_id: str = ""
    request_id: str = ""
    """The client's own text."""
    bytes_in: int = 0
    """The bytes of its tensors."""
    bytes_out: int = 0
    """The bytes of the answer's tensors."""
    cache: str = ""
    """`hit` or `repeated`: the answer was kept; `miss`: it was run, though its model has a cache; empty: it has none."""


class AccessLog:
    """A share of all requests, of which each is a line."""

    __slots__ = ("_clock", "_left", "_put", "_rng", "_sample", "_wall_clock")

    def __init__(
        self,
        put: Callable[[Mapping[str, Any]], None],
        sample: float,
        *,
        rng: random.Random,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`sample` is the share, above 0 and at most 1. `clock` is the one that requests' times are of."""
        self._put = put
        self._sample = sample
        self._rng = rng
        self._clock = clock
        self._wall_clock = wall_clock
        self._left = self._gap()

    def wants(self) -> bool:
        """Return whether the request that ends now is one of the share: each is as likely as any other."""
        self._left -= 1
        if self._left > 0:
            return False
        self._left = self._gap()
        return True

    def inference(self, times: RequestTimes, facts: Facts) -> None:
        """Write a line for an inference request."""
        self._put(inference_line(times, facts, self._offset_s()))

    def refused(self, model: str, code: str, wire: str) -> None:
        """Write a line for an inference request that was refused before it was read."""
        self._put(
            _without_empty(
                {
                    "at": _moment(self._wall_clock()),
                    "wire": wire,
                    "model": plain(model[:MOST_CHARS]),
                    "code": code,
                }
            )
        )

    def page(self, method: str, route: str, status: int, began_s: float, facts: Facts) -> None:
        """Write a line for any other HTTP request; `began_s` is on the clock of requests' times."""
        now_s = self._clock()
        self._put(
            _without_empty(
                {
                    "at": _moment(self._offset_s() + began_s),
                    "wire": facts.wire,
                    "method": plain(method[:MOST_CHARS]),
                    "route": route,
                    "status": status,
                    "took_ms": _ms(now_s - began_s),
                    **_who(facts),
                }
            )
        )

    def _gap(self) -> int:
        """Return how many requests there are to the next of the share, that one included."""
        if self._sample >= 1.0:
            return 1
        return 1 + int(math.log(1.0 - self._rng.random()) / math.log(1.0 - self._sample))

    def _offset_s(self) -> float:
        return self._wall_clock() - self._clock()


class SlowLog:
    """The requests that took longer than a time, or than is usual for their model: so many a second at most."""

    __slots__ = (
        "_at_s",
        "_clock",
        "_factor",
        "_least_s",
        "_limits_s",
        "_put",
        "_tokens",
        "_wall_clock",
        "floor_s",
        "left_out",
    )

    def __init__(
        self,
        put: Callable[[Mapping[str, Any]], None],
        *,
        least_s: float,
        factor: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """A request is slow after `least_s`, or after `factor` times the 99th percentile of its model; infinity: never."""
        self._put = put
        self._least_s = least_s
        self.floor_s = min(least_s, LEAST_FACTOR_S)
        """The seconds up to which no request is slow, whatever is usual for its model."""
        self._factor = factor
        self._clock = clock
        self._wall_clock = wall_clock
        self._limits_s: dict[object, float] = {}
        self._tokens = float(BURST)
        self._at_s = clock()
        self.left_out = 0
        """The number of slow requests that were not written because too many were."""

    def learn(self, usual_s: Mapping[object, float]) -> None:
        """Go by these 99th percentiles from now on, by what is asked of `limit_s`."""
        self._limits_s = {
            of: max(LEAST_FACTOR_S, self._factor * each) for of, each in usual_s.items()
        }

    def limit_s(self, of: object) -> float:
        """Return the seconds after which a request of a model version is slow."""
        return min(self._least_s, self._limits_s.get(of, math.inf))

    def may_write(self) -> bool:
        """Return whether one more may be written now, and count it."""
        now_s = self._clock()
        self._tokens = min(BURST, self._tokens + max(0.0, now_s - self._at_s) * PER_S)
        self._at_s = now_s
        if self._tokens < 1.0:
            self.left_out += 1
            return False
        self._tokens -= 1.0
        return True

    def write(
        self, times: RequestTimes, facts: Facts, limit_s: float, explanation: Mapping[str, Any]
    ) -> None:
        """Write a line for a slow request; `explanation` says among whom and why its nodes were chosen."""
        self._put(
            {
                **inference_line(times, facts, self._wall_clock() - self._clock()),
                "limit_ms": _ms(limit_s),
                "attempts": [
                    {
                        "node": each.peer,
                        "address": each.address,
                        "after_ms": _ms(each.sent_s - times.started_s),
                        "took_ms": _ms(each.ended_s - each.sent_s),
                        "queue_ms": _ms(each.queue_s),
                        "run_ms": _ms(each.run_s),
                        "outcome": each.outcome.partition(":")[0],
                    }
                    for each in times.attempts
                ],
                "explanation": explanation,
            }
        )


def inference_line(times: RequestTimes, facts: Facts, offset_s: float) -> dict[str, Any]:
    """Return the line of an inference request; `offset_s` leads from the clock of its times to the seconds since 1970."""
    last = times.attempts[-1] if times.attempts else None
    answered = next((each for each in times.attempts if each.outcome == "answered"), last)
    line = {
        "at": _moment(offset_s + times.started_s),
        "wire": facts.wire,
        "model": plain(times.model[:MOST_CHARS]),
        "version": plain(times.version[:MOST_CHARS]),
        "code": times.code,
        "took_ms": _ms(times.ended_s - times.started_s),
        "node": "" if answered is None else answered.peer,
        "attempts": len(times.attempts),
        "queue_ms": 0.0 if answered is None else _ms(answered.queue_s),
        "run_ms": 0.0 if answered is None else _ms(answered.run_s),
        "bytes_in": facts.bytes_in,
        "bytes_out": facts.bytes_out,
        "cache": facts.cache,
        "trace": "" if times.parent is None else times.parent.trace_id,
        **_who(facts),
    }
    return _without_empty(line)


def _who(facts: Facts) -> dict[str, str]:
    return {
        "client": facts.client,
        "tenant": facts.tenant,
        "key": facts.key_id,
        "id": plain(facts.request_id[:MOST_CHARS]),
    }


def _without_empty(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if value != ""}


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3) if math.isfinite(seconds) else 0.0


def _moment(wall_s: float) -> str:
    text = datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
