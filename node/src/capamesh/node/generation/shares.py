"""Counts the time of the model that each tenant has had, so that it is the turn of whoever had least. Pure."""

from __future__ import annotations


class _Share:
    """One tenant's sequences in the engine, and the time that it has had on the scale of all."""

    __slots__ = ("count", "used_s")

    def __init__(self, used_s: float) -> None:
        self.count = 0
        self.used_s = used_s


class TenantShares:
    """Seconds of the model by tenant; a tenant is known while it has a sequence in the engine.

    One that comes (again) begins with what the least served has had: what was not used is not owed.
    """

    def __init__(self) -> None:
        self._shares: dict[str, _Share] = {}
        self._floor_s = 0.0

    def __len__(self) -> int:
        return len(self._shares)

    def enter(self, tenant: str, count: int) -> None:
        """Count `count` more sequences of `tenant`."""
        share = self._shares.get(tenant)
        if share is None:
            if self._shares:
                self._floor_s = min(each.used_s for each in self._shares.values())
            share = self._shares[tenant] = _Share(self._floor_s)
        share.count += count

    def leave(self, tenant: str) -> None:
        """Count one sequence of `tenant` less."""
        share = self._shares[tenant]
        share.count -= 1
        if share.count == 0:
            self._floor_s = max(self._floor_s, min(each.used_s for each in self._shares.values()))
            del self._shares[tenant]

    def charge(self, tenant: str, seconds: float) -> None:
        """Count time of the model that `tenant` has had."""
        share = self._shares.get(tenant)
        if share is not None:
            share.used_s += seconds

    def used_s(self, tenant: str) -> float:
        """Return the time that `tenant` has had, on the scale of all."""
        share = self._shares.get(tenant)
        return self._floor_s if share is None else share.used_s
