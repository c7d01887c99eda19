"""Knows whether running a request for a model twice does no harm, as most invites of its nodes say. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.replica import Replica

OFFERS_AGE_S = 1.0
"""Seconds for which the offers of a model's replicas are taken to stay the same while the replicas are the same (guess)."""
MAX_OFFERS = 1024
"""Models of which that is known (guess: more than are in use)."""


class Idempotency:
    """Remembers what the replicas of models offer, so that not all of them are asked for every request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._offers: dict[
            tuple[ModelName, ModelVersion], tuple[tuple[Replica, ...], float, bool]
        ] = {}
        """The replicas of each model, the time when they were asked, and `ServedModel.may_repeat`."""

    def holds(self, served: ServedModel) -> bool:
        """Return `served.may_repeat()`, as it was a moment ago."""
        replicas, now_s = served.hosted.replicas, self._clock()
        key = (served.model, served.version)
        known = self._offers.get(key)
        if known is not None and known[0] is replicas and 0 <= now_s - known[1] < OFFERS_AGE_S:
            return known[2]
        if known is None and len(self._offers) >= MAX_OFFERS:
            self._offers.clear()
        may_repeat = served.may_repeat()
        self._offers[key] = (replicas, now_s, may_repeat)
        return may_repeat
