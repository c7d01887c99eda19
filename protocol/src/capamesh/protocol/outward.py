"""Where this machine listens and under which address others reach it. IO: asks the kernel for a route, sends nothing."""

from __future__ import annotations

import ipaddress
import socket

from capamesh.protocol.errors import ConfigError

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - to recognise them
_ELSEWHERE = ("192.0.2.1", 9)
"""TEST-NET-1 (RFC 5737): no host has it, but the route to it is the default one."""


def advertised_host(host: str, override: str = "") -> str:
    """Return the host that peers should dial when this process listens on `host`.

    `override` wins; a wildcard becomes the machine's outward address, anything else is itself.
    """
    if override:
        return override
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return host
    except ValueError:
        return host  # a name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def listen_multiaddr(host: str, port: int) -> str:
    """Return where the mesh listens, as libp2p writes it; raise `ConfigError` unless `host` is an IP address."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError as exc:
        raise ConfigError(
            f"the mesh listens on IP addresses, not on the name {host!r}: give 127.0.0.1, or 0.0.0.0 for all"
        ) from exc
    return f"/ip{version}/{host}/tcp/{port}"


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
