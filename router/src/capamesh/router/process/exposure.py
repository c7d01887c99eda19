"""The rule on who may reach a router's HTTP: clients of other machines only by TLS and with keys, unless it is told otherwise.

IO: names of hosts are looked up.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.reach import Inside, inside_of
from capamesh.router.access.audience import Audience
from capamesh.router.access.keys import Verb

if TYPE_CHECKING:
    from capamesh.router.settings import RouterSettings

_ABLE = (
    (
        Verb.INFER,
        "run any model as often as the limits allow, in any tenant's name and at any priority",
    ),
    (
        Verb.READ,
        "read every request's way, /v1/nodes with the addresses of all nodes, and /metrics",
    ),
)
_FIREWALL = "or let a firewall allow only those you know"


def require_safe(settings: RouterSettings, *, asks_for_keys: bool) -> None:
    """Raise `ConfigError` where clients of other machines could come in without TLS, or without proving who they are.

    A certificate that each client must have is a proof, as a key is.
    """
    lacking = _lacking(settings, asks_for_keys=asks_for_keys)
    if not lacking or settings.is_insecure:
        return
    addresses = [("--http", settings.http_host, settings.http_port)]
    if settings.metrics_host:
        addresses.append(("--metrics-listen", settings.metrics_host, settings.metrics_port))
    for option, host, port in addresses:
        if is_of_this_machine(host):
            continue
        raise ConfigError(
            f"clients of other machines could come in at {option} {host}:{port}, where {' and '.join(lacking)}. Either listen on this"
            f" machine alone ({option} 127.0.0.1:{port}), if need be with a proxy before it; or give a certificate and keys"
            " (--tls-cert and --tls-key of `capamesh router run`, `capamesh keys create`); or say by --insecure that only those you trust can reach it"
        )


def warning(
    settings: RouterSettings,
    host: str,
    *,
    asks_for_keys: bool,
    audience: Audience = Audience.ALL,
) -> dict[str, str]:
    """Return what the log warns of at a router that listens for the `audience` at the address `host`; empty: of nothing."""
    lacking = _lacking(settings, asks_for_keys=asks_for_keys)
    if not lacking or inside_of(host) is Inside.LOOPBACK:
        return {}
    has_tls = settings.tls_certificate is not None
    if asks_for_keys:
        return {
            "what_they_can_do": "read all that is on the way, keys included: nothing is encrypted",
            "what_to_do": f"give a certificate (--tls-cert), listen on 127.0.0.1 and let a proxy with TLS come before it, {_FIREWALL}",
        }
    able = ", ".join(text for verb, text in _ABLE if audience.is_served((verb,)))
    return {
        "what_they_can_do": able if has_tls else f"{able}; nothing on the way is encrypted",
        "what_to_do": f"give out keys (capamesh keys create), listen on 127.0.0.1 and let a proxy come before it, {_FIREWALL}",
    }


def is_of_this_machine(host: str) -> bool:
    """Return whether nobody of another machine can connect to `host`, an address or a name; one that is not known: True."""
    inside = inside_of(host)
    if inside is not None:
        return inside is Inside.LOOPBACK
    try:
        found = socket.getaddrinfo(
            host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        return True  # it cannot be listened on either, which is told then
    return all(inside_of(str(address[0])) is Inside.LOOPBACK for *_, address in found)


def _lacking(settings: RouterSettings, *, asks_for_keys: bool) -> list[str]:
    lacking: list[str] = []
    if not asks_for_keys and settings.tls_client_ca is None:
        lacking.append("no key is asked for")
    if settings.tls_certificate is None:
        lacking.append("nothing is encrypted")
    return lacking
