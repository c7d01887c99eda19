"""Reads the "host:port" addresses of adverts. Pure: names are not resolved."""

from __future__ import annotations

import ipaddress
import re

MAX_ADDRESS_CHARS = 262
"""A name of 253 characters (RFC 1035, section 2.3.4, written out), brackets or not, a colon and a port."""

_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_LAST_PORT = 65_535


def parse_address(text: str) -> tuple[str, int]:
    """Return the host and the port of "host:port"; an IPv6 host stands in brackets, and loses them.

    Raises `ValueError` naming what is wrong.
    """
    if len(text) > MAX_ADDRESS_CHARS:
        raise ValueError(
            f"the address has {len(text)} characters; the limit is {MAX_ADDRESS_CHARS}"
        )
    host, colon, port = text.rpartition(":")
    if not colon or _PORT.match(port) is None or int(port) > _LAST_PORT:
        raise ValueError(f"{text!r} has no port in 1..{_LAST_PORT}; write host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if "%" in host:
            raise ValueError(
                f"{text!r} names an interface, which means nothing to others; leave it out"
            )
        try:
            ipaddress.IPv6Address(host)
        except ValueError as exc:
            raise ValueError(f"{text!r} has no IPv6 address in its brackets") from exc
    elif _NAME.match(host) is None:
        raise ValueError(f"{text!r} has no host name or IP address; write host:port or [IPv6]:port")
    return host, int(port)
