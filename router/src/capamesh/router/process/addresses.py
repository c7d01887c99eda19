"""The addresses at which clients and operators come in: told to the status and the log, with what strangers could do there.

Does no IO of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.router.access.audience import Audience
from capamesh.router.process.exposure import is_of_this_machine, warning

if TYPE_CHECKING:
    from capamesh.router.process.parts import RouterParts
    from capamesh.router.settings import RouterSettings

Address = tuple[str, int]
"""A host, as the system names it, and a port."""


def tell_addresses(parts: RouterParts, clients: Address, operators: Address | None) -> None:
    """Tell where the router listens for clients, and for operators where they have an address of their own.

    The log of a main process warns of what strangers can do there that they should not.
    """
    standing, settings = parts.standing, parts.settings
    has_tls = parts.tls is not None
    standing.http_address = http_url(*clients, has_tls=has_tls)
    asks_for_keys = parts.inference.ring.is_required
    of_clients = Audience.ALL if operators is None else Audience.CLIENTS
    listening = [(standing.http_address, clients[0], of_clients)]
    if operators is not None:
        is_by_tls = has_tls and speaks_tls_to_operators(settings)
        standing.metrics_address = http_url(*operators, has_tls=is_by_tls)
        listening.append((standing.metrics_address, operators[0], Audience.OPERATORS))
    for url, host, audience in listening:
        found = warning(settings, host, asks_for_keys=asks_for_keys, audience=audience)
        if found and parts.seat.is_main:
            parts.log.warning("http_open_to_strangers", http=url, **found)


def speaks_tls_to_operators(settings: RouterSettings) -> bool:
    """Return whether operators come in by the TLS that clients speak: not at an address of this machine alone."""
    return not is_of_this_machine(settings.metrics_host)


def http_url(host: str, port: int, *, has_tls: bool) -> str:
    """Return the URL of a router."""
    return f"{'https' if has_tls else 'http'}://{authority(host, port)}"


def authority(host: str, port: int) -> str:
    """Return an address as URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
