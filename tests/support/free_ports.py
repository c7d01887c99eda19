"""Ports that nobody has. IO: sockets."""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from contextlib import suppress

BELOW_OUTGOING = range(20_000, 32_768)
"""Linux gives outgoing connections higher ones: what listens here can be started again on the same port."""
_given: deque[int] = deque(maxlen=1000)
"""The ports that were returned of late. Who got one may not listen there yet, or may listen there again."""


def _own() -> range:
    """Return the ports of this process of the tests alone: those that run beside it look at the same moment."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return BELOW_OUTGOING[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of a host that nobody had a moment ago, another one each time."""
    while True:
        port = random.choice(_own())
        if port in _given:
            continue
        with suppress(OSError), socket.create_server((host, port)):
            _given.append(port)
            return port
