"""Tells how far inside a network an address lies, which decides what a member may be made to dial by others. Pure.

What others advertise is an address that this process connects to. Without a rule any member could make a router
connect to services on its own machine or in its operator's private network.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Inside(IntEnum):
    """The level of an address inside a network; who is at one level may be asked to dial it and what is further out."""

    GLOBAL = 0
    """The addresses of the internet."""
    PRIVATE = 1
    """The addresses of a private network: RFC 1918, RFC 4193, and the carriers' RFC 6598."""
    LINK_LOCAL = 2
    """The addresses of one network segment, where clouds keep their metadata services: RFC 3927, RFC 4291."""
    LOOPBACK = 3
    """The addresses of this machine alone."""
    NOWHERE = 4
    """The addresses of no single host: multicast, broadcast, unspecified, reserved. Never dialled."""

    @property
    def word(self) -> str:
        """The word that people write for it: "global", "private", "link-local", "loopback", "nowhere"."""
        return self.name.lower().replace("_", "-")


CHOICES: Final = ("global", "private", "link-local", "loopback")
"""The levels that an operator may allow to be dialled."""


_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_BENCHMARK: Final = ipaddress.ip_network("198.18.0.0/15")


def inside_of(host: str) -> Inside | None:
    """Return where the IP address `host` lies; None for a name, of which only its addresses tell."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    is_old = isinstance(address, ipaddress.IPv4Address)
    if (
        address.is_multicast
        or address.is_unspecified
        or (
            is_old and (address.is_reserved or int(address) >> 24 == 0)
        )  # all ones are reserved too
    ):
        return Inside.NOWHERE
    if address.is_loopback:
        return Inside.LOOPBACK
    if address.is_link_local:
        return Inside.LINK_LOCAL
    is_private = address.is_private or (is_old and (address in _SHARED or address in _BENCHMARK))
    return Inside.PRIVATE if is_private else Inside.GLOBAL


def inside_named(word: str) -> Inside:
    """Return the level that `word` names; raise `ConfigError` when it is none of `CHOICES`."""
    if word not in CHOICES:
        raise ConfigError(f"{word!r} is none of {', '.join(CHOICES)}")
    return Inside[word.upper().replace("-", "_")]


def innermost_to_dial(own_hosts: Iterable[str], outward: str) -> Inside:
    """Return how far inside a member may dial that others reach at `own_hosts`: no further than it is itself.

    Of several hosts the one that is furthest out counts. Of a name nothing is known: it stands for `outward`, the
    address from which this machine reaches others, "" if it reaches none.
    """
    known = [inside_of(host) for host in own_hosts]
    if None in known:
        known.append(inside_of(outward))
    return min((one for one in known if one is not None), default=Inside.LOOPBACK)
