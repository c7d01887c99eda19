"""The sockets on which HTTP comes to all workers of a router. IO: sockets."""

from __future__ import annotations

import socket

import pytest

from capamesh.protocol.errors import ConfigError
from capamesh.router.process.workers.main import listening


def test_sockets_listen_before_any_worker_is_there() -> None:
    (shared,) = listening("127.0.0.1", 0, "--http")
    with shared, socket.create_connection(shared.getsockname()):
        accepted, _ = shared.accept()
        accepted.close()


def test_taken_port_is_refused_in_the_systems_own_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as refusal:
            listening("127.0.0.1", port, "--metrics-listen")
    assert str(refusal.value) == (
        f"cannot listen for HTTP on 127.0.0.1:{port}: Address already in use; give another --metrics-listen"
    )
