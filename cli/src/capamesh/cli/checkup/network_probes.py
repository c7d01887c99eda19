"""Reads the facts that `network` judges: a router's time, who connects. IO: sockets, a child process."""

from __future__ import annotations

import datetime as dt
import re
import socket
import subprocess
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

from capamesh.cli.checkup.network import Clock, Reach

CONNECT_S: Final = 3.0
"""The longest that a connection may take (guess: three tries of a packet that is lost)."""
MOST_ADDRESSES: Final = 16
"""The most addresses that are dialled (guess: a token with more names some that are one machine)."""
_MULTIADDR: Final = re.compile(
    r"/(?:ip4|ip6|dns|dns4|dns6)/(?P<host>[^/]+)/tcp/(?P<port>[0-9]{1,5})(?:/.*)?"
)
_PORTS: Final = {"http": 80, "https": 443}


def router_address(url: str) -> tuple[str, int] | None:
    """Return the host and port of a router's URL; None where it is none."""
    with suppress(ValueError):
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
        if parts.scheme in _PORTS and parts.hostname and port:
            return parts.hostname, port
    return None


def mesh_address(multiaddr: str) -> tuple[str, int] | None:
    """Return the host and port of a mesh address (`/ip4/…/tcp/…`); None where it has none."""
    found = _MULTIADDR.fullmatch(multiaddr)
    if found is None or not 0 < int(found["port"]) <= 65_535:
        return None
    return found["host"], int(found["port"])


def reach(host: str, port: int) -> Reach:
    """Return whether a TCP connection comes about."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        return Reach(address, reason)
    return Reach(address, "")


def clock(url: str) -> Clock:
    """Return how this machine's clock compares with a router's, or else what the system says of it."""
    told = _router_time(url) if url else None
    if told is not None:
        return Clock(ahead_s=(dt.datetime.now(dt.UTC) - told).total_seconds())
    return Clock(is_synchronised=_is_synchronised())


def _router_time(url: str) -> dt.datetime | None:
    address = router_address(url)
    if address is None:
        return None
    make = HTTPSConnection if urlsplit(url).scheme == "https" else HTTPConnection
    connection = make(*address, timeout=CONNECT_S)
    try:
        connection.request("GET", "/v2/health/live")
        return time_of(connection.getresponse().getheader("Date"))
    except (OSError, HTTPException, UnicodeError):
        return None
    finally:
        connection.close()


def time_of(header: str | None) -> dt.datetime | None:
    """Return the time in a Date header; None where it holds none, or one without its zone."""
    if header is None:
        return None
    with suppress(ValueError, OverflowError):
        told = parsedate_to_datetime(header)
        return told if told.tzinfo is not None else None
    return None


def _is_synchronised() -> bool | None:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["/usr/bin/timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            timeout=CONNECT_S,
            check=False,
        )
        return {"yes": True, "no": False}.get(done.stdout.strip())
    return None
