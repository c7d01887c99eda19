"""Decides which connections a port accepts from whoever comes, and which it closes for them. Pure: time comes in.

Whoever reaches a port for members may connect to it, and proves membership only then. So connections that have proved
nothing are few, they come at a limited rate, and the longest unproven is closed for a new one: a stranger that holds
connections without a word holds them for as long as it takes others to come. Addresses where a member proved itself
lately have a rate of their own, so that strangers elsewhere do not keep a fleet from coming back.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.descriptors import shares_of

if TYPE_CHECKING:
    from collections.abc import Callable

KNOWN_FOR_S: Final = 3600.0
"""Seconds for which an address counts as a member's (guess: longer than any restart)."""

MAX_ADDRESSES: Final = 4096
"""The most addresses that are known, and whose rate is remembered (guess; about 1 MB)."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate: so many a second, after a first few."""

    per_s: float
    burst: float


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of the connections that a port accepts."""

    connections: int
    """The most connections in all, proved and not."""
    unproven: int = 128
    """The most unproven ones (guess: at 100 a second each has more than a second, several round trips around the world)."""
    unproven_of_address: int = 32
    """The most unproven ones of an address (guess: a quarter, so that one address is not all)."""
    of_strangers: Rate = Rate(per_s=100.0, burst=200.0)
    """The rate of all addresses together where nobody proved membership lately. A TLS handshake costs 0.57 ms of CPU
    (measured), so that strangers get 6 % of a core."""
    of_address: Rate = Rate(per_s=20.0, burst=64.0)
    """A node has up to 64 devices, each of which dials."""
    of_known: Rate = Rate(per_s=200.0, burst=400.0)
    """The rate of all addresses together where members proved themselves lately."""
    of_known_address: Rate = Rate(per_s=100.0, burst=200.0)
    """The rate of one such address (guess: many nodes may share one)."""


def limits_within(descriptors: int) -> ConnectionLimits:
    """Return the limits of a port in a process that may have so many descriptors: half of its share for links.

    The other half is for those that it dials.
    """
    connections = max(2, shares_of(descriptors).links // 2)
    unproven = min(128, connections // 2)
    return ConnectionLimits(
        connections, unproven=unproven, unproven_of_address=max(1, min(32, unproven // 2))
    )


def address_key(host: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 that an IPv6 host is given."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64)) + "/64"


def _nothing(_: str) -> None:
    """Stand in until there is something to close."""


class Slot:
    """The place of one accepted connection; compared by identity."""

    __slots__ = ("address", "close", "is_closed", "is_proven")

    def __init__(self, address: str) -> None:
        self.address = address
        self.close: Callable[[str], None] = _nothing
        """The callback that closes the connection and is told why; whoever has the connection sets it."""
        self.is_proven = False
        self.is_closed = False


@dataclass(slots=True)
class _Tokens:
    left: float
    at_s: float


class ConnectionLimiter:
    """Counts the connections of one port."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._open = 0
        self._unproven: dict[Slot, None] = {}
        """Longest unproven first."""
        self._unproven_of: dict[str, dict[Slot, None]] = {}
        self._known: OrderedDict[str, float] = OrderedDict()
        """The time when a member last proved itself, by address."""
        self._all = {False: _Tokens(limits.of_strangers.burst, 0.0)}
        self._all[True] = _Tokens(limits.of_known.burst, 0.0)
        self._of_address: OrderedDict[str, _Tokens] = OrderedDict()
        self.refused = 0
        self.displaced = 0

    @override
    def __repr__(self) -> str:
        return f"ConnectionLimiter({self._open} open, {len(self._unproven)} unproven)"

    def opened(self, host: str, now_s: float) -> Slot | None:
        """Return the place of a connection from `host`, or None when it is to be closed at once.

        Another that has proved nothing may be closed for it, as this may be for a later one.
        """
        address = address_key(host)
        limits = self._limits
        if not self._may_begin(address, now_s) or not self._make_place(address):
            self.refused += 1
            return None
        slot = Slot(address)
        self._open += 1
        self._unproven[slot] = None
        self._unproven_of.setdefault(address, {})[slot] = None
        assert self._open <= limits.connections  # noqa: S101 - a place was made
        return slot

    def proved(self, slot: Slot, now_s: float) -> None:
        """The peer at the other end is a member."""
        if slot.is_closed or slot.is_proven:
            return
        slot.is_proven = True
        self._forget_unproven(slot)
        self._known[slot.address] = now_s
        self._known.move_to_end(slot.address)
        if len(self._known) > MAX_ADDRESSES:
            self._known.popitem(last=False)

    def closed(self, slot: Slot) -> None:
        """A connection is gone; again is harmless."""
        if slot.is_closed:
            return
        slot.is_closed = True
        self._open -= 1
        if not slot.is_proven:
            self._forget_unproven(slot)

    def _may_begin(self, address: str, now_s: float) -> bool:
        """Take a token of the address and one of all; return whether there were both."""
        limits = self._limits
        is_known = now_s - self._known.get(address, float("-inf")) <= KNOWN_FOR_S
        rate = limits.of_known_address if is_known else limits.of_address
        own = self._of_address.get(address)
        if own is None:
            own = self._of_address[address] = _Tokens(rate.burst, now_s)
            if len(self._of_address) > MAX_ADDRESSES:
                self._of_address.popitem(last=False)
        else:
            self._of_address.move_to_end(address)
        of_all = self._all[is_known]
        _fill(own, rate, now_s)
        _fill(of_all, limits.of_known if is_known else limits.of_strangers, now_s)
        if own.left < 1.0 or of_all.left < 1.0:
            return False
        own.left -= 1.0
        of_all.left -= 1.0
        return True

    def _make_place(self, address: str) -> bool:
        """Close the longest unproven where a limit is reached; return whether there is a place."""
        limits = self._limits
        of_address = self._unproven_of.get(address)
        if of_address is not None and len(of_address) >= limits.unproven_of_address:
            self._displace(next(iter(of_address)), "too many from its address")
        elif len(self._unproven) >= limits.unproven or (
            self._open >= limits.connections and self._unproven
        ):
            self._displace(next(iter(self._unproven)), "too many in all")
        return self._open < limits.connections

    def _displace(self, slot: Slot, why: str) -> None:
        self.displaced += 1
        self.closed(slot)
        slot.close(f"it proved no membership, and its place was needed: {why}")

    def _forget_unproven(self, slot: Slot) -> None:
        del self._unproven[slot]
        of_address = self._unproven_of[slot.address]
        del of_address[slot]
        if not of_address:
            del self._unproven_of[slot.address]


def _fill(tokens: _Tokens, rate: Rate, now_s: float) -> None:
    gained = max(0.0, now_s - tokens.at_s) * rate.per_s
    tokens.left = min(rate.burst, tokens.left + gained)
    tokens.at_s = now_s
