"""How many of the slots each tenant may have when there are not enough for all. Pure.

Max-min fairness: who wants less than an equal part (by weight) has all that it wants, and the rest is divided
among the others in the same way. So a tenant that asks for little is never refused because another asks for
much. It divides the requests that this router has in flight; routers do not tell each other of their tenants.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import IntEnum

ANONYMOUS = ""
"""All requests that name no tenant are one tenant's."""
REST = "*"
"""In the weights: everyone who is not named there."""
MAX_IDLE = 1024
"""Tenants without a request in flight that are remembered (guess)."""
ACTIVE_S = 10.0
"""A tenant counts as one for so long after its last request (guess: people and pollers pause)."""
DIVIDED_S = 0.025
"""How long a division holds (guess: as the reading of the hosts)."""


class Standing(IntEnum):
    """How a tenant's requests in flight compare with its share, with one more of them."""

    ALONE = 0
    """There is no other to be fair to."""
    WITHIN = 1
    """No more than an equal part: never refused for the sake of another."""
    FAIR = 2
    """More than that, of what others leave."""
    OVER = 3
    """More than its share."""


class _Tenant:
    __slots__ = ("in_flight", "seen_s", "weight")

    def __init__(self, weight: float) -> None:
        self.in_flight = 0
        self.weight = weight
        self.seen_s = -math.inf


class FairShare:
    """Counts requests in flight by tenant. `now_s` is the caller's clock."""

    __slots__ = ("_busy", "_busy_weight", "_divided_s", "_idle", "_level", "_max_idle", "_weights")

    def __init__(
        self, weights: Mapping[str, float] | None = None, *, max_idle: int = MAX_IDLE
    ) -> None:
        """Take weights above 0 by tenant; who has none has that of `REST`, or 1."""
        self._weights = dict(weights or {})
        self._max_idle = max_idle
        self._busy: dict[str, _Tenant] = {}
        self._busy_weight = 0.0
        self._idle: dict[str, _Tenant] = {}
        """Who was there last is last."""
        self._level = math.inf
        """The slots that a tenant of weight 1 may have."""
        self._divided_s = -math.inf

    def __repr__(self) -> str:
        return f"FairShare({len(self._busy)} tenants busy, {len(self._idle)} idle)"

    def __len__(self) -> int:
        return len(self._busy) + len(self._idle)

    def in_flight(self, tenant: str) -> int:
        """Return the tenant's requests under way."""
        state = self._busy.get(tenant)
        return state.in_flight if state is not None else 0

    def enter(self, tenant: str, now_s: float) -> None:
        """A request of `tenant` begins; one `leave` must follow."""
        state = self._busy.get(tenant)
        if state is None:
            state = self._idle.pop(tenant, None) or _Tenant(self.weight(tenant))
            self._busy[tenant] = state
            self._busy_weight += state.weight
        state.in_flight += 1
        state.seen_s = now_s

    def leave(self, tenant: str, now_s: float) -> None:
        """A request of `tenant` has ended, whichever way."""
        state = self._busy[tenant]
        state.in_flight -= 1
        state.seen_s = now_s
        if state.in_flight == 0:
            del self._busy[tenant]
            self._busy_weight = self._busy_weight - state.weight if self._busy else 0.0
            self._keep(tenant, state)

    def refused(self, tenant: str, now_s: float) -> None:
        """A request of `tenant` was refused: it is there, though nothing of it is under way."""
        if tenant in self._busy:
            return
        state = self._idle.pop(tenant, None) or _Tenant(self.weight(tenant))
        state.seen_s = now_s
        self._keep(tenant, state)

    def weight(self, tenant: str) -> float:
        """Return the tenant's weight."""
        weights = self._weights
        return weights.get(tenant) or weights.get(REST, 1.0)

    def standing(self, tenant: str, slots: float, now_s: float) -> Standing:
        """Return how one more request of `tenant` compares with its share of `slots`."""
        state = self._busy.get(tenant)
        if not self._is_contested(tenant, state, now_s):
            return Standing.ALONE
        if state is None:
            return Standing.WITHIN
        wanted = state.in_flight + 1
        if wanted <= slots * state.weight / self._busy_weight:
            return Standing.WITHIN
        if not 0 <= now_s - self._divided_s < DIVIDED_S:
            self._divided_s = now_s
            uses = [(each.in_flight, each.weight) for each in self._busy.values()]
            self._level = water_level(uses, slots)
        return Standing.FAIR if wanted <= self._level * state.weight else Standing.OVER

    def _is_contested(self, tenant: str, state: _Tenant | None, now_s: float) -> bool:
        """Whether another tenant has a request under way, or had one of late."""
        if len(self._busy) > (state is not None):
            return True
        for name in reversed(self._idle):  # at most two steps
            if name != tenant:
                return now_s - self._idle[name].seen_s < ACTIVE_S
        return False

    def _keep(self, tenant: str, state: _Tenant) -> None:
        self._idle[tenant] = state
        if len(self._idle) > self._max_idle:
            del self._idle[next(iter(self._idle))]


def water_level(uses: Iterable[tuple[float, float]], slots: float) -> float:
    """Return the slots for each unit of weight at which `slots` are used up, as water fills a vessel.

    `uses` are (slots had, weight above 0). Whoever has most for its weight is taken to want more.
    """
    ascending = sorted((had / weight, weight) for had, weight in uses)
    weights = sum(weight for _, weight in ascending)
    left = slots
    for level, weight in ascending[:-1]:
        if level * weights >= left:
            break
        left -= level * weight
        weights -= weight
    return left / weights if weights > 0 else math.inf
