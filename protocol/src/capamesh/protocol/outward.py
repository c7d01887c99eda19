"""Finds the address under which others reach this machine. IO: asks the kernel for a route, sends nothing."""

from __future__ import annotations

import ipaddress
import socket

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
