"""The loop of these tests: a simulated one, but for what needs the system's sockets, processes or time, and says why.

What needs them is a smoke, and stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from capamesh.simulation.sim_loop import SimLoop

HERE = Path(__file__).parent
TURN_S = 20e-6
"""The time that a turn of asyncio's own loop takes, about."""
REAL = {
    "client": "the blocking half of the client runs in threads",
    "cli": "commands are processes, and read terminals",
    "deploy": "units and containers are processes",
    "links": "OpenSSL reads the system's sockets",
    "mesh": "libp2p runs in a process of its own",
    "node": "nodes run models in threads and processes of their own",
    "protocol": "OpenSSL reads the system's sockets",
    "router/access/test_database_outages.py": "PostgreSQL is stopped and frozen for real",
    "router/jobs/test_input_readers.py": "readers of inputs are processes",
    "router/test_front_tls.py": "OpenSSL reads the system's sockets",
    "router/test_grpc_clients.py": "grpcio has sockets and threads of its own",
    "router/test_shared_cache.py": "Valkey is a process",
    "router/test_worker_seat.py": "workers are processes",
    "test_stray_signals.py": "signals go to processes",
    "router/test_process.py": "routers are processes",
}
"""Folders and files, and what of the system they need."""


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if config.getoption("real_loop") or _is_real(item):
        return {"real": asyncio.SelectorEventLoop}
    return {"sim": partial(SimLoop, config.getoption("loop_seed"), turn_s=TURN_S)}


def _is_real(item: pytest.Item) -> bool:
    place = item.path.relative_to(HERE)
    return item.get_closest_marker("real_loop") is not None or any(
        str(each) in REAL for each in (place, *place.parents)
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.config.getoption("again") and not _is_real(item):
        pytest.fail("it runs in virtual time: what it said the first time counts")
