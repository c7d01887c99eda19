"""Tells whose shard a router leases next: deficit round robin over tenants, and over the jobs of each. Pure.

What is shared is row-seconds of nodes, so a job of long rows gets fewer of them (Shreedhar and Varghese, "Efficient fair
queueing using deficit round robin", 1995). Each router shares what it leases itself, and so all of them together do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

MOST_DEBT: Final = 16.0
"""The most that a key can owe, in quanta: what took far longer than was thought does not shut its job out for long."""

_Key = TypeVar("_Key")


class Ring(Generic[_Key]):
    """Keys in turn. Each has a deficit, what it may still take; a key that wants nothing loses it."""

    def __init__(self) -> None:
        self._deficits: dict[_Key, float] = {}
        """The deficits in the order of the turns: the first is at its turn."""
        self._quantum = 0.0

    def __len__(self) -> int:
        return len(self._deficits)

    def at_turn(self, costs: Mapping[_Key, float]) -> _Key:
        """Return the key whose turn it is among those of `costs`, which are what each would take; asked again, it is the same one."""
        for key in [key for key in self._deficits if key not in costs]:
            del self._deficits[key]
        for key in costs:
            self._deficits.setdefault(key, 0.0)
        self._quantum = max(costs.values())  # so that one round serves everybody who owes nothing
        while True:
            key, deficit = next(iter(self._deficits.items()))
            if deficit >= costs[key]:
                return key
            del self._deficits[key]
            self._deficits[key] = deficit + self._quantum

    def charge(self, key: _Key, cost: float) -> None:
        """Take from the deficit of a key what it took, or give back what it did not; nothing happens if it wants nothing any more."""
        if key in self._deficits:
            least = -MOST_DEBT * self._quantum
            self._deficits[key] = max(least, self._deficits[key] - cost)


class Turns(Generic[_Key]):
    """The turns of tenants, and of the jobs of each."""

    def __init__(self) -> None:
        self._tenants: Ring[str] = Ring()
        self._jobs: dict[str, Ring[_Key]] = {}

    def next(self, wanted: Mapping[str, Mapping[_Key, float]]) -> tuple[str, _Key] | None:
        """Return the tenant and the job whose turn it is, and count its cost; None: nobody wants anything.

        `wanted`: the row-seconds of the next shard of each job that has one, above 0, by tenant.
        """
        wanting = {tenant: costs for tenant, costs in wanted.items() if costs}
        for tenant in [tenant for tenant in self._jobs if tenant not in wanting]:
            del self._jobs[tenant]
        if not wanting:
            return None
        first: dict[str, _Key] = {}
        for tenant, costs in wanting.items():
            ring = self._jobs.setdefault(tenant, Ring())
            first[tenant] = ring.at_turn(costs)
        tenant = self._tenants.at_turn(
            {tenant: wanting[tenant][job] for tenant, job in first.items()}
        )
        job = first[tenant]
        self.settle(tenant, job, wanting[tenant][job])
        return tenant, job

    def settle(self, tenant: str, job: _Key, row_s: float) -> None:
        """Count row-seconds that a job took beyond what was counted, or, below 0, did not take."""
        self._tenants.charge(tenant, row_s)
        if tenant in self._jobs:
            self._jobs[tenant].charge(job, row_s)
