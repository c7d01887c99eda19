"""The constraints of a request's options, or of the operator's rules, on the node that runs a request. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.protocol.ids import PeerId

T = TypeVar("T", bound=str)


@dataclass(frozen=True, slots=True)
class Constraints:
    """The constraints on the node that runs a request. None: anything will do; an empty set: nothing will."""

    max_price: float = math.inf
    """The highest price of a million rows, in the network's unit, as `NodeAdvert.price_per_million`."""
    regions: frozenset[str] | None = None
    device_kinds: frozenset[str] | None = None
    peers: frozenset[PeerId] | None = None
    """The only nodes to be trusted with it."""
    not_at: frozenset[PeerId] = frozenset()
    """The nodes that must not run it: another's word is wanted on what these say of it."""

    def both(self, other: Constraints) -> Constraints:
        """Return what meets these and the others."""
        if other is ANYWHERE:
            return self
        if self is ANYWHERE:
            return other
        return Constraints(
            min(self.max_price, other.max_price),
            _both(self.regions, other.regions),
            _both(self.device_kinds, other.device_kinds),
            _both(self.peers, other.peers),
            self.not_at | other.not_at,
        )

    def are_met_by(self, advert: NodeAdvert, address: str) -> bool:
        """Return whether `refusal` has nothing to say of the node, as the worker at that address would run a request."""
        return (
            advert.price_per_million <= self.max_price
            and (self.regions is None or advert.region in self.regions)
            and (self.device_kinds is None or device_kinds(advert, address) <= self.device_kinds)
            and (self.peers is None or advert.peer in self.peers)
            and advert.peer not in self.not_at
        )

    def refusal(self, advert: NodeAdvert, address: str) -> str:
        """Return which of these the node does not meet; empty: none."""
        if not advert.price_per_million <= self.max_price:
            return f"price {advert.price_per_million} is over the cap {self.max_price}"
        if self.regions is not None and advert.region not in self.regions:
            return f"region {advert.region or 'unknown'} is not {_one_of(self.regions)}"
        if self.device_kinds is not None:
            kinds = device_kinds(advert, address)
            if not kinds <= self.device_kinds:
                return f"device {' or '.join(sorted(kinds))} is not {_one_of(self.device_kinds)}"
        if self.peers is not None and advert.peer not in self.peers:
            return "not one of the nodes that the request names"
        if advert.peer in self.not_at:
            return "the request is for another node than this one"
        return ""


ANYWHERE = Constraints()
"""The value where nothing is asked, which is known by its identity: for each replica, that is looked at."""


def device_kinds(advert: NodeAdvert, address: str) -> frozenset[str]:
    """Return what the worker at a node's address may run on: one kind, or several when it cannot be known.

    Whoever dialled this router is some device of its node that cannot be dialled, or any if all can.
    """
    devices = advert.devices
    at = [device.kind for device in devices if address in device.data_addresses]
    at = at or [device.kind for device in devices if not device.data_addresses]
    return frozenset(at or [device.kind for device in devices])


def _both(one: frozenset[T] | None, other: frozenset[T] | None) -> frozenset[T] | None:
    if one is None or other is None:
        return one if other is None else other
    return one & other


def _one_of(allowed: frozenset[str]) -> str:
    if len(allowed) <= 1:
        return next(iter(allowed), "any that is allowed")
    return f"one of {', '.join(sorted(allowed))}"
