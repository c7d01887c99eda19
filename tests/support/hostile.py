"""A real network under attack: memory limits in force, well-behaved clients beside the attack. IO: processes, /proc, HTTP.

async with attacked(folder, models, nodes=3) as network:
    async with network.honest() as seen:
        ...the attack...
    assert seen.failures == []
    assert network.peak_bytes("router") <= 300 * MIB
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from clusters import Cluster, metrics_at

from capamesh.cli.member import Member

MIB = 1 << 20
ROUTER_BYTES = 1024 * MIB
NODE_BYTES = 2048 * MIB
"""The memory limits of docker-compose.yml."""
SAMPLE_S = 0.05
"""How often memory is read (a worker that takes 5 GB in 3 s is seen 100 MB after its limit)."""
STILL_S, STILL_LIMIT_S = 0.5, 3.0
"""So long nothing must move until an attack has done what it can; what never stands still has had the second."""


def children_of(pid: int) -> list[int]:
    """Return a process and all that it and its children started."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def own_bytes(pid: int) -> int:
    """Return the memory that is a process's own, as a container's limit counts it: anonymous and shared; 0: it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    kib = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))]
    return sum(kib) * 1024


class MemoryWatch:
    """Plays a container's memory limit: reads what a member's processes occupy, and kills the largest over the limit."""

    def __init__(self, limits: Mapping[int, int]) -> None:
        """`limits`: the bytes that each member's process may have, with its children, by its pid."""
        self._limits = dict(limits)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peaks: dict[int, int] = dict.fromkeys(limits, 0)
        self.kills: list[int] = []
        """The members one of whose processes was killed, once for each."""
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            for pid, limit in self._limits.items():
                sizes = {child: own_bytes(child) for child in children_of(pid)}
                total = sum(sizes.values())
                self.peaks[pid] = max(self.peaks[pid], total)
                if total > limit:
                    self.kills.append(pid)
                    with suppress(ProcessLookupError):
                        os.kill(max(sizes, key=sizes.__getitem__), signal.SIGKILL)


class Figures:
    """What attacks came to, each beside its bar; printed at the end of a test run."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def at_most(self, what: str, value: float, bar: float) -> None:
        self.lines.append(f"{what}: {value:g} (bar: at most {bar:g})")
        assert value <= bar, self.lines[-1]

    def note(self, what: str, value: float) -> None:
        self.lines.append(f"{what}: {value:g}")

    def at_least(self, what: str, value: float, bar: float) -> None:
        self.lines.append(f"{what}: {value:g} (bar: at least {bar:g})")
        assert value >= bar, self.lines[-1]


class AttackedNetwork(Cluster):
    watch: MemoryWatch

    def bytes_of(self, member: Member) -> int:
        return sum(map(own_bytes, children_of(member.pid)))

    def peak_bytes(self, member: Member) -> int:
        """Return the most that a member has occupied since the watch began."""
        return self.watch.peaks[member.pid]

    async def until_still(self, *names: str) -> None:
        """Wait until the router's metrics of these names stay as they are, `STILL_LIMIT_S` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STILL_LIMIT_S):
                before: list[float] = []
                while before != (
                    now := [(await metrics_at(self.http_url))[name] for name in names]
                ):
                    before = now
                    await asyncio.sleep(STILL_S)


@asynccontextmanager
async def attacked(
    folder: Path,
    models: Path,
    *,
    nodes: int = 3,
    node_options: Sequence[str] = (),
    data_bytes: int | None = None,
    **options: Any,
) -> AsyncIterator[AttackedNetwork]:
    """Run a router and nodes whose models are all ready, with a container's memory limits in force.

    `data_bytes` is how much data each process may have by the kernel's limit: by it nodes know of their container.
    """
    network = AttackedNetwork(
        folder, models, nodes, node_options=("--threads", "1", *node_options), **options
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        if data_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, hard))
        await network.start()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    try:
        await network.wait_routable(nodes)
        limits = {node.pid: NODE_BYTES for node in network.nodes}
        network.watch = MemoryWatch(limits | {network.router.pid: ROUTER_BYTES})
        try:
            yield network
        finally:
            network.watch.stop()
    finally:
        for member in network.members:
            member.signal(signal.SIGTERM)  # all at once: no client is left to be served
        await network.stop()
