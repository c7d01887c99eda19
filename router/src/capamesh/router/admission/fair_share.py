"""Divides the slots among the tenants when there are not enough for all. Pure.

Max-min fairness: who wants less than an equal part (by weight) has all that it wants, and the rest is divided
among the others in the same way. So a tenant that asks for little is never refused because another asks for
much. It divides the requests that this router has in flight; routers do not tell each other of their tenants.

What is in flight now does not tell what a tenant wants: the callers of one may pause for a moment while those of another,
which come again and again, take what has just become free. So what each had before counts, too. Of the tenants that
were refused of late, and therefore want more, none may get ahead of another by more than a few requests, by weight
(start-time fair queueing, Goyal, Vin and Cheng 1996, without a queue): what becomes free waits a moment for the other.

A tenant is whoever a request names: nobody proves it. So that who invents a name for each request does not get a
part for each, only so many tenants without a weight of their own have a part each; those beyond share one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from enum import IntEnum
from typing import Any

from typing_extensions import override

REST = "*"
"""The others: in the weights, everyone who is not named there; in the division, those for whom there is no part of their own."""
MAX_TENANTS = 64
"""Tenants that have a part each, beside those with a weight of their own (guess)."""
ACTIVE_S = 10.0
"""A tenant counts as one for so long after its last request (guess: people and pollers pause)."""
DIVIDED_S = 0.025
"""Seconds for which a division holds (guess: as the reading of the replicas)."""
LEAD = 1.0
"""A tenant may be ahead of one that wants more by so many requests of its own, for nobody can have parts of one."""
FREE_LEAD = 0.25
"""The part of what is free by which a tenant may also lead, so that little is left unused for another's sake (guess)."""


class Standing(IntEnum):
    """The comparison of a tenant's requests in flight, with one more of them, to its share."""

    ALONE = 0
    """There is no other to be fair to."""
    WITHIN = 1
    """No more than an equal part: never refused for the sake of another."""
    FAIR = 2
    """More than that, of what others leave."""
    OVER = 3
    """More than its share."""


class _Tenant:
    __slots__ = ("in_flight", "notes", "passed", "seen_s", "wants_s", "weight")

    def __init__(self, weight: float) -> None:
        self.in_flight = 0
        self.passed = 0.0
        """The requests of it that were let in, divided by its weight; who was idle starts where the others are."""
        self.wants_s = -math.inf
        """The time until which it counts as one that wants more than it has."""
        self.weight = weight
        self.seen_s = -math.inf
        """The time when its last request ended or was refused."""
        self.notes: dict[Hashable, Any] = {}


class FairShare:
    """Counts requests in flight by tenant. `now_s` is the caller's clock."""

    def __init__(
        self, weights: Mapping[str, float] | None = None, *, max_tenants: int = MAX_TENANTS
    ) -> None:
        """Take weights above 0 by tenant; who has none has that of `REST`, or 1."""
        self._weights = dict(weights or {})
        self._max_tenants = max_tenants + len(self._weights)
        self._busy: dict[str, _Tenant] = {}
        self._busy_weight = 0.0
        self._idle: dict[str, _Tenant] = {}
        """The tenants without requests; who was there last is last."""
        self._lodgers: dict[str, int] = {}
        """Requests under way of those who share the part of `REST`."""
        self._level = math.inf
        """The slots that a tenant of weight 1 may have."""
        self._divided_s = -math.inf
        self._wanting: dict[str, _Tenant] = {}
        """The tenants that were refused of late, and some for whom that is over."""
        self._most_passed = 0.0
        self._lag = math.inf
        """Nobody counts as further behind who has passed most: what can be in flight at a time, once that is known."""

    def reweigh(self, weights: Mapping[str, float]) -> None:
        """Take other weights, as at the start; what is under way counts by them, too."""
        self._max_tenants += len(weights) - len(self._weights)
        self._weights = dict(weights)
        for tenants in (self._busy, self._idle):
            for name, state in tenants.items():
                state.weight = self.weight(name)
        self._busy_weight = sum(state.weight for state in self._busy.values())
        self._divided_s = -math.inf

    @override
    def __repr__(self) -> str:
        return f"FairShare({len(self._busy)} tenants busy, {len(self._idle)} idle)"

    def __len__(self) -> int:
        return len(self._busy) + len(self._idle)

    def in_flight(self, tenant: str) -> int:
        """Return the tenant's requests under way, or those of all with whom it shares a part."""
        state = self._busy.get(REST if tenant in self._lodgers else tenant)
        return state.in_flight if state is not None else 0

    def enter(self, tenant: str, now_s: float) -> None:
        """A request of `tenant` begins; one `leave` must follow."""
        name = tenant
        if tenant in self._lodgers or not (tenant in self._busy or tenant in self._idle):
            name = self._name(tenant, now_s)
        if name != tenant:
            self._lodgers[tenant] = self._lodgers.get(tenant, 0) + 1
        state = self._busy.get(name)
        if state is None:
            state = self._idle.pop(name, None) or self._new(name)
            self._busy[name] = state
            self._busy_weight += state.weight
        state.in_flight += 1
        most = self._most_passed
        passed = state.passed
        passed = max(passed, most - self._lag)
        state.passed = passed = passed + 1.0 / state.weight
        if passed > most:
            self._most_passed = passed

    def leave(self, tenant: str, now_s: float, *, is_served: bool = True) -> None:
        """A request of `tenant` has ended, whichever way; one that is not `is_served` was none in the end."""
        name = tenant
        lodging = self._lodgers.get(tenant)
        if lodging is not None:
            name = REST
            if lodging > 1:
                self._lodgers[tenant] = lodging - 1
            else:
                del self._lodgers[tenant]
        state = self._busy[name]
        state.in_flight -= 1
        state.seen_s = now_s
        if not is_served:
            state.passed -= 1.0 / state.weight
        if state.in_flight == 0:
            del self._busy[name]
            self._busy_weight = self._busy_weight - state.weight if self._busy else 0.0
            self._idle[name] = state

    def notes(self, tenant: str, now_s: float) -> tuple[Mapping[Hashable, Any], float]:
        """Return the caller's notes on a tenant and its part by weight, above 0 to 1, were it here; nothing changes."""
        name = self._name(tenant, now_s)
        state = self._busy.get(name)
        if state is not None:
            return state.notes, state.weight / self._busy_weight
        state = self._idle.get(name)
        weight = state.weight if state is not None else self.weight(name)
        return state.notes if state is not None else {}, weight / (self._busy_weight + weight)

    def refused(self, tenant: str, now_s: float, wants_s: float = 0.0) -> dict[Hashable, Any]:
        """Count a request of `tenant` that was refused: the tenant is there, though nothing of it is under way.

        For `wants_s` from now others wait for it rather than get ahead of it. Return the caller's notes on that tenant,
        which are kept with it.
        """
        name = self._name(tenant, now_s)
        state = self._busy.get(name)
        if state is None:
            state = self._idle.pop(name, None) or self._new(name)
            self._idle[name] = state
        state.seen_s = now_s
        state.wants_s = now_s + wants_s
        self._wanting[name] = state
        return state.notes

    def describe(self, tenant: str) -> str:
        """Return with whom it has a part, for a person."""
        name = f"tenant {tenant!r:.80}"
        return f"{name} and those that share its part" if tenant in self._lodgers else name

    def weight(self, tenant: str) -> float:
        """Return the tenant's weight."""
        weights = self._weights
        return weights.get(tenant) or weights.get(REST, 1.0)

    def standing(self, tenant: str, slots: float, now_s: float) -> Standing:
        """Return how one more request of `tenant` compares with its share of `slots`."""
        name = self._name(tenant, now_s)
        state = self._busy.get(name)
        if not self._is_contested(name, state, now_s):
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

    @property
    def is_wanted(self) -> bool:
        """Return whether anybody may want more than it has: then `is_ahead` is to be asked."""
        return bool(self._wanting)

    def lag(self, tenant: str, slots: float, now_s: float) -> float:
        """Return how far behind the one that has passed most anybody counts as, while there are so many slots."""
        weight = self.weight(self._name(tenant, now_s))
        return max(1.0, slots) / max(self._busy_weight, weight)

    def is_ahead(self, tenant: str, lag: float, free: float, now_s: float) -> bool:
        """Return whether one more request of `tenant` must wait for those of others that want more.

        `free` slots are not taken; `lag` is what the method of that name returned.
        """
        name = self._name(tenant, now_s)
        state = self._busy.get(name) or self._idle.get(name)
        least = self._most_passed - lag
        mine = max(state.passed, least) if state is not None else least
        lead = (LEAD + FREE_LEAD * max(0.0, free)) / self.weight(name)
        return any(
            now_s < wanting.wants_s
            and wanting is not state
            and mine - max(wanting.passed, least) > lead
            for wanting in self._wanting.values()
        )

    def take_lag(self, lag: float, now_s: float) -> None:
        """Count with this lag from now on, and forget who wanted more than it had until some time ago."""
        self._lag = lag
        over = [name for name, each in self._wanting.items() if not now_s < each.wants_s]
        for name in over:
            del self._wanting[name]

    def _is_contested(self, tenant: str, state: _Tenant | None, now_s: float) -> bool:
        """Return whether another tenant has a request under way, or had one of late."""
        if len(self._busy) > (state is not None):
            return True
        for name in reversed(self._idle):  # at most two steps
            if name != tenant:
                return now_s - self._idle[name].seen_s < ACTIVE_S
        return False

    def _name(self, tenant: str, now_s: float) -> str:
        """Return in whose name its requests are counted: its own, or `REST`."""
        if tenant in self._lodgers:
            return REST
        if tenant in self._busy or tenant in self._idle or tenant in self._weights:
            return tenant
        if len(self) < self._max_tenants:
            return tenant
        oldest = next(iter(self._idle.values()), None)
        is_free = oldest is not None and not 0 <= now_s - oldest.seen_s < ACTIVE_S
        return tenant if is_free else REST

    def _new(self, name: str) -> _Tenant:
        """Return a tenant that was not there; the one that was idle for longest makes room."""
        if name != REST and len(self) >= self._max_tenants and self._idle:
            longest = next(iter(self._idle))
            del self._idle[longest]
            self._wanting.pop(longest, None)
        return _Tenant(self.weight(name))


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
