"""Ports that nobody has. IO: sockets."""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

BELOW_OUTGOING = range(20_000, 32_768)
"""Linux gives outgoing connections higher ones: what listens here can be started again on the same port."""
OF_NOBODY = range(10_000, 20_000)
"""No start of ours chooses one of these: what is free here is not taken by one that runs beside a test."""
_given: deque[int] = deque(maxlen=1000)
"""The ports that were returned of late. Who got one may not listen there yet, or may listen there again."""


def _own(ports: Sequence[int]) -> Sequence[int]:
    """Return those of the ports that are this process's alone: tests in others look at the same moment."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return ports[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def free_port(host: str = "127.0.0.1", among: Sequence[int] = BELOW_OUTGOING) -> int:
    """Return a TCP port of a host that nobody had a moment ago, another one each time."""
    own = _own(among)
    while True:
        port = random.choice(own)
        if port in _given:
            continue
        with suppress(OSError), socket.create_server((host, port)):
            _given.append(port)
            return port
