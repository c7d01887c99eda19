"""Ports that nobody has. IO: sockets."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

BELOW_OUTGOING = range(20_000, 32_768)
"""Linux gives outgoing connections higher ones: what listens here can be started again on the same port."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of a host that nobody had a moment ago."""
    while True:
        port = random.choice(BELOW_OUTGOING)
        with suppress(OSError), socket.create_server((host, port)):
            return port
