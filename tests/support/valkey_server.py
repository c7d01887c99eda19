"""A Valkey or Redis server of a test's own, where the machine has one. Starts a process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from free_ports import free_port

START_S = 60.0
PASSWORD = "s e:c/ret"  # noqa: S105 - a test's


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"valkey://:s%20e:c%2Fret@127.0.0.1:{port}/1"


@contextmanager
def running(folder: Path, port: int = 0) -> Iterator[Server]:
    """Run a server that keeps nothing on disk and asks for a password; skip the test where there is none."""
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        pytest.skip(
            "there is no valkey-server and no redis-server here: apt-get install valkey-server"
        )
    port = port or free_port("127.0.0.1")
    settings = {
        "--port": str(port),
        "--bind": "127.0.0.1",
        "--save": "",
        "--dir": str(folder),
        "--requirepass": PASSWORD,
    }
    words = [word for pair in settings.items() for word in pair]
    with subprocess.Popen(
        [program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_listening(process, port)
            yield Server(process, port)
        finally:
            process.kill()


def _wait_listening(process: subprocess.Popen[bytes], port: int) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)
    raise AssertionError(f"the server does not listen; exit status {process.poll()}")
