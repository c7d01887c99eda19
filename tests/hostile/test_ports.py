"""What strangers may hold of the ports where members meet: not the descriptors that a router needs itself."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from chaos import send_signal, sidecar_pid, worker_pids
from hostile import Figures, attacked
from patience import until

from capamesh.cli.member import Member

DESCRIPTORS = 256


class Holder:
    """Strangers that connect again and again to some ports, and never say a word."""

    def __init__(self, addresses: list[tuple[str, int]]) -> None:
        self._addresses = addresses
        self._held: list[socket.socket] = []
        self.opened = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for address in self._addresses:
                stranger = socket.socket()
                stranger.setblocking(False)
                self._held.append(stranger)
                with suppress(OSError):
                    async with asyncio.timeout(1):
                        await loop.sock_connect(stranger, address)
                    self.opened += 1
            while len(self._held) > 600:
                self._held.pop(0).close()
            await asyncio.sleep(0.01)

    def close(self) -> None:
        for stranger in self._held:
            stranger.close()


def has_another_sidecar(member: Member, before: int) -> bool:
    """Whether a member's mesh is up again after the sidecar `before`."""
    status = member.status()
    return status["sidecar_pid"] not in {None, before} and bool(status["mesh_addresses"])


def is_low(member: Member) -> bool:
    """Whether a member has said that strangers leave it few descriptors."""
    return '"descriptors_low"' in member.log_file.read_text("utf-8", "replace")


def descriptors_of(member: Member) -> int:
    return len(list(Path(f"/proc/{member.pid}/fd").iterdir()))


@pytest.fixture
def few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have members start with a hard limit of `DESCRIPTORS`."""
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -n {DESCRIPTORS}\nexec "{sys.executable}" "$@"\n')
    limited.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(limited))


@pytest.mark.usefixtures("few_descriptors")
async def test_strangers_that_hold_connections_leave_a_router_what_it_needs(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path / "network", sample_models, nodes=2) as network:
        status = network.router.status()
        (mesh,) = status["mesh_addresses"]
        mesh_port = int(re.findall(r"/tcp/(\d+)/", mesh)[0])
        link_port = int(status["link_address"].rpartition(":")[2])
        worker_port = int(network.nodes[0].status()["data_addresses"][0].rpartition(":")[2])
        strangers = Holder([("127.0.0.1", port) for port in (mesh_port, link_port, worker_port)])
        holding = asyncio.create_task(strangers.run())
        try:
            async with network.honest() as kept, network.honest(is_new=True) as new:
                await until(lambda: strangers.opened >= 300 and is_low(network.router))
                before = sidecar_pid(network.router)
                send_signal([before], signal.SIGKILL)
                await until(lambda: has_another_sidecar(network.router, before))
                send_signal(worker_pids(network.nodes[1]), signal.SIGKILL)
                await asyncio.sleep(1)
                await network.wait_routable(2)
            open_files = descriptors_of(network.router)
        finally:
            holding.cancel()
            with suppress(asyncio.CancelledError):
                await holding
            strangers.close()
        figures.at_least("connections of strangers to mesh and link ports", strangers.opened, 300)
        figures.at_most(f"descriptors of a router that may have {DESCRIPTORS}", open_files, 200)
        figures.at_most("requests that failed meanwhile", kept.failed + new.failed, 0)
