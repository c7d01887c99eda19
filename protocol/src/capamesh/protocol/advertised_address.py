"""The address where this machine listens, and the one under which others reach it. IO: asks the kernel for a route, sends nothing."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.member_name import checked_name, name_of_host

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - to recognise them
_ELSEWHERE = {
    socket.AF_INET: ("192.0.2.1", 9),
    socket.AF_INET6: ("2001:db8::1", 9),
}
"""TEST-NET-1 (RFC 5737) and its like of IPv6 (RFC 3849): no host has them, but the route is the default one."""


def advertised_host(host: str, override: str = "") -> str:
    """Return the host that peers should dial when this process listens on `host`.

    `override` wins; a wildcard becomes the machine's outward address of its own family, or loopback where
    the machine has no network at all; anything else is itself.

    `ConfigError`: `host` is IPv6's wildcard on a machine that others reach over IPv4 alone, which a socket
    on "::" does not take (asyncio and uvloop set IPV6_V6ONLY).
    """
    if override:
        return override
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host  # a name
    if not address.is_unspecified:
        return host
    if address.version == 4:
        return _source_of_default_route(socket.AF_INET) or "127.0.0.1"
    outward = _source_of_default_route(socket.AF_INET6)
    if outward and not ipaddress.ip_address(outward).is_link_local:
        return outward
    if _source_of_default_route(socket.AF_INET):
        raise ConfigError(
            f"listening on {host} takes IPv6 alone, and this machine has no IPv6 address that others could "
            "dial: give --advertise HOST, or listen on 0.0.0.0"
        )
    return "::1"


def member_name(name: str) -> str:
    """Return the name of a member: the one that its operator gave, else this machine's; `ConfigError` when it is none."""
    return checked_name(name) if name else name_of_host(socket.gethostname())


def outward_address() -> str:
    """Return the address from which this machine reaches others, over IPv4 if it has that; empty when it reaches none."""
    return _source_of_default_route(socket.AF_INET) or _source_of_default_route(socket.AF_INET6)


def _source_of_default_route(family: socket.AddressFamily) -> str:
    """Return the address from which this machine reaches others, empty when it cannot."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(_ELSEWHERE[family])
            return str(probe.getsockname()[0])
    except OSError:  # no route, or a kernel without IPv6
        return ""


def listen_multiaddr(host: str, port: int) -> str:
    """Return where the mesh listens, as libp2p writes it; raise `ConfigError` unless `host` is an IP address."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError as exc:
        raise ConfigError(
            f"the mesh listens on IP addresses, not on the name {host!r}: give 127.0.0.1, or 0.0.0.0 for all"
        ) from exc
    return f"/ip{version}/{host}/tcp/{port}"


def dialled_multiaddr(host: str, port: int, peer: PeerId) -> str:
    """Return the mesh address of `peer` at an IP address or a name."""
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns"
    return f"/{kind}/{host}/tcp/{port}/p2p/{peer}"


def reachable_multiaddr(addr: str, host: str) -> str:
    """Return where others reach what listens on `addr`: a wildcard address becomes `host`, an IP or a name."""
    parts = addr.split("/")
    if len(parts) > 2 and parts[2] in WILDCARDS:
        try:
            parts[1] = f"ip{ipaddress.ip_address(host).version}"
        except ValueError:
            parts[1] = "dns4"
        parts[2] = host
    return "/".join(parts)


def listen_reason(error: OSError) -> str:
    """Return why listening failed, without the address that event loops write into the error's text."""
    if error.errno is None or isinstance(error, socket.gaierror):  # whose numbers are its own
        return error.strerror or str(error)
    return os.strerror(error.errno)


def require_free(host: str, port: int, option: str) -> None:
    """Raise `ConfigError` naming `option` when another process listens on `host:port`; 0 is always free.

    libp2p listens with SO_REUSEPORT: a second process on the port would silently get half of the connections.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # remains of the last run may linger
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as exc:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {exc.strerror}; give another {option}"
            ) from exc
