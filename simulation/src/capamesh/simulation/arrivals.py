"""Requests as they come to one router: a Poisson process that does not wait for answers. Pure, seeded."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from capamesh.simulation.events import Events
    from capamesh.simulation.scenario import RequestKind


class Arrivals:
    """Calls `arrive(kind, key)` at random, `rate_per_s` times a second on average, until `until_s`.

    `key` is the request's affinity key, empty for a kind that has none.
    """

    def __init__(
        self,
        kinds: Sequence[RequestKind],
        rate_per_s: float,
        until_s: float,
        *,
        events: Events,
        rng: random.Random,
        arrive: Callable[[RequestKind, str], None],
    ) -> None:
        self.factor = 1.0
        """The factor of a surge: so many times as many requests come."""
        self._kinds = kinds
        self._bounds = list(accumulate(kind.share for kind in kinds))
        self._rate_per_s = rate_per_s
        self._until_s = until_s
        self._events = events
        self._rng = rng
        self._arrive = arrive

    @override
    def __repr__(self) -> str:
        return f"Arrivals({self._rate_per_s * self.factor:.1f} a second)"

    def start(self) -> None:
        """Let the first one come in time."""
        gap_s = self._rng.expovariate(self._rate_per_s * self.factor)
        due_s = self._events.now_s + gap_s
        if due_s < self._until_s:
            self._events.at(due_s, self._next)

    def _next(self) -> None:
        self.start()
        kinds, rng = self._kinds, self._rng
        # strictly below the last bound, so that a kind without a share at the end is never met
        kind = (
            kinds[bisect(self._bounds, rng.random() * self._bounds[-1])]
            if len(kinds) > 1
            else kinds[0]
        )
        key = f"{kind.name}-{int(rng.random() * kind.keys)}" if kind.keys else ""
        self._arrive(kind, key)
