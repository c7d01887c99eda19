"""A look whether any router that a join token names can be reached. IO: dials them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from capamesh.cli.checkup.network_probes import CONNECT_S, MOST_ADDRESSES, mesh_address, reach
from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from capamesh.cli.checkup.network import Reach
    from capamesh.protocol.network import JoinToken


def unreached_text(token: JoinToken) -> str:
    """Return what to tell a person when no router in the token takes a connection; empty where one does.

    That it belongs to the network is not looked at: the node proves it. Raises `ConfigError` for a token without an address.
    """
    addresses = [found for found in map(mesh_address, token.bootstrap) if found is not None]
    if not addresses:
        raise ConfigError(
            "this token names no router's address, so that a node would find nobody: ask for what `capamesh token` prints there, or a "
            "token of `capamesh network token --bootstrap ADDRESS`"
        )
    addresses = list(dict.fromkeys(addresses))[:MOST_ADDRESSES]
    with ThreadPoolExecutor(len(addresses)) as pool:
        reached = list(pool.map(_reached, addresses))
    if not all(each.problem for each in reached):
        return ""
    tried = ", ".join(f"{each.address} ({each.problem})" for each in reached)
    return (
        f"no router of {token.network_id} answers within {CONNECT_S:g} s: {tried}. Check that `capamesh up` runs there, that the "
        "firewall there lets this port in, and that the address is still right: `capamesh token` prints a new token there where it is not"
    )


def _reached(address: tuple[str, int]) -> Reach:
    return reach(*address)
