"""Chooses the addresses of a node that are dialled: few, of one host, and no further inside than this router is. Pure.

An advert may name 64 devices with 16 addresses each. Every address that is taken costs a router a link that it keeps
dialling, and a replica for each model that the node has ready; and the author of the advert says where these lead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from capamesh.protocol.adverts import NodeAdvert, parse_address
from capamesh.protocol.reach import Inside, inside_of

MAX_OF_DEVICE: Final = 4
"""A device has one worker, which has one address; a few more are for later versions."""
MAX_OF_NODE: Final = 16
"""A worker a device: the largest single machines have 16 accelerators."""
MAX_HOSTS_OF_NODE: Final = 4096
"""The most replicas of one node: each costs 1.1 KB of a router's memory. It is enough for 256 models on each of 16 devices."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """The addresses of one node that are dialled."""

    addresses: tuple[str, ...]
    refused: str = ""
    """The addresses that are not dialled, and why, for people; "" when all are."""


AddressRule = Callable[["NodeAdvert"], Dialled]


def addresses_within(innermost: Inside) -> AddressRule:
    """Return the rule of a router that dials no further inside than `innermost`."""

    def rule(advert: NodeAdvert) -> Dialled:
        return dialled_of(advert, innermost)

    return rule


def dialled_of(advert: NodeAdvert, innermost: Inside) -> Dialled:
    """Return what is dialled of a node: all addresses of the host of the first that may be, up to the limits.

    A name is taken here, and its addresses are judged when it is dialled.
    """
    ready = sum(offer.is_ready for offer in advert.models)
    most = max(1, min(MAX_OF_NODE, MAX_HOSTS_OF_NODE // max(1, ready)))
    the_host = ""
    taken: dict[str, None] = {}
    refused: dict[str, str] = {}
    for device in advert.devices:
        for number, address in enumerate(device.data_addresses):
            host, _ = parse_address(address)
            inside = inside_of(host)
            if inside is not None and inside > innermost:
                refused[address] = (
                    f"{inside.word} addresses are not dialled: this router is "
                    f"reached at a {innermost.word} one; see --dial-inside"
                )
            elif the_host and host != the_host:
                refused[address] = f"one host a node is dialled, here {the_host}"
            elif address in taken:
                continue
            elif number >= MAX_OF_DEVICE or len(taken) >= most:
                refused[address] = f"at most {MAX_OF_DEVICE} a device and {most} in all are dialled"
            else:
                the_host = host
                taken[address] = None
    if not refused:
        return Dialled(tuple(taken))
    address, why = next(iter(refused.items()))
    more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
    return Dialled(tuple(taken), f"{address}{more}: {why}")
