"""A real network under attack: memory limits in force, well-behaved clients beside the attack. IO: processes, /proc, HTTP.

async with attacked(folder, models, nodes=3) as network:
    async with network.honest() as seen:
        ...the attack...
    assert seen.failures == {}
    assert network.peak_bytes("router") <= 300 * MIB
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos_cluster import metrics_at, nodes_at

from capamesh.cli.local_cluster import LocalCluster
from capamesh.cli.member import Member

MIB = 1 << 20
ROUTER_BYTES = 1024 * MIB
NODE_BYTES = 2048 * MIB
"""The memory limits of docker-compose.yml."""
SAMPLE_S = 0.05
"""How often memory is read (a worker that takes 5 GB in 3 s is seen 100 MB after its limit)."""
STILL_S, STILL_LIMIT_S = 0.5, 3.0
"""So long nothing must move until an attack has done what it can; what never stands still has had the second."""
HONEST_CLIENT = Path(__file__).with_name("honest_client.py")


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

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def now_bytes(self, pid: int) -> int:
        """Return what a member occupies now."""
        return sum(map(own_bytes, children_of(pid)))

    def forget_peaks(self) -> None:
        """Count peaks from now on."""
        self.peaks = dict.fromkeys(self.peaks, 0)

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
        """Keep a figure, and fail where it is over its bar."""
        self.lines.append(f"{what}: {value:g} (bar: at most {bar:g})")
        assert value <= bar, self.lines[-1]

    def note(self, what: str, value: float) -> None:
        """Keep a figure that has no bar."""
        self.lines.append(f"{what}: {value:g}")

    def at_least(self, what: str, value: float, bar: float) -> None:
        """Keep a figure, and fail where it is under its bar."""
        self.lines.append(f"{what}: {value:g} (bar: at least {bar:g})")
        assert value >= bar, self.lines[-1]


@dataclass(slots=True)
class Seen:
    """What well-behaved clients saw, once they have ended."""

    answered: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    longest_gap_s: float = 0.0
    """The longest time without any answer."""

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def take(self, line: bytes) -> None:
        """Take over what the clients' process printed at its end."""
        for name, value in json.loads(line).items():
            setattr(self, name, value)


class AttackedNetwork:
    """A running cluster with memory limits."""

    def __init__(self, cluster: LocalCluster, watch: MemoryWatch) -> None:
        self.cluster = cluster
        self.watch = watch

    @property
    def url(self) -> str:
        return self.cluster.http_url

    @property
    def address(self) -> tuple[str, int]:
        """Where the router's HTTP port is."""
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        return host, int(port)

    @property
    def router(self) -> Member:
        return self.cluster.router

    @property
    def nodes(self) -> Sequence[Member]:
        return self.cluster.nodes

    def bytes_of(self, member: Member) -> int:
        """Return what a member occupies now, its children included."""
        return self.watch.now_bytes(member.pid)

    def peak_bytes(self, member: Member) -> int:
        """Return the most that a member has occupied since the watch began."""
        return self.watch.peaks[member.pid]

    def log_bytes(self) -> int:
        """Return how long the logs of all members are together."""
        return sum(member.log_file.stat().st_size for member in self.cluster.members)

    async def metrics(self) -> dict[str, float]:
        return await metrics_at(self.url)

    async def until_still(self, *names: str) -> None:
        """Wait until the router's metrics of these names stay as they are, `STILL_LIMIT_S` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STILL_LIMIT_S):
                before: list[float] = []
                while before != (now := [(await self.metrics())[name] for name in names]):
                    before = now
                    await asyncio.sleep(STILL_S)

    async def fleet(self) -> dict[str, dict[str, object]]:
        """Return `/v1/nodes` by peer."""
        return await nodes_at(self.url)

    def worker_deaths(self) -> int:
        """Return how often a worker ended unasked, as the nodes' logs say."""
        count = 0
        for node in self.cluster.nodes:
            for line in node.log_file.read_text("utf-8", "replace").splitlines():
                with suppress(ValueError):
                    count += json.loads(line).get("event") == "worker_died"
        return count

    @asynccontextmanager
    async def honest(
        self, *, connections: int = 4, is_new: bool = False, pause_s: float = 0.01
    ) -> AsyncIterator[Seen]:
        """Let well-behaved clients ask `digits` meanwhile, each on one connection or (`is_new`) on a new one each time."""
        seen = Seen()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HONEST_CLIENT), f"{self.url}/v2/models/digits/infer"),
            *(str(connections), "new" if is_new else "kept", str(pause_s)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert await process.stdout.readline() == b"asking\n"
            yield seen
            process.stdin.close()
            async with asyncio.timeout(90):
                seen.take(await process.stdout.readline())
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def attacked(
    folder: Path,
    models: Path,
    *,
    nodes: int = 3,
    router_options: Sequence[str] = (),
    node_options: Sequence[str] = (),
    router_bytes: int = ROUTER_BYTES,
    node_bytes: int = NODE_BYTES,
    data_bytes: int | None = None,
) -> AsyncIterator[AttackedNetwork]:
    """Run a router and nodes whose models are all ready, with a container's memory limits in force.

    `data_bytes` is how much data each process may have by the kernel's limit: by it nodes know of their container.
    """
    cluster = LocalCluster(
        folder,
        models,
        nodes,
        node_options=("--threads", "1", *node_options),
        router_options=router_options,
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        if data_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, hard))
        await cluster.start()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    try:
        await cluster.wait_routable(nodes)
        limits = {node.pid: node_bytes for node in cluster.nodes}
        watch = MemoryWatch(limits | {cluster.router.pid: router_bytes})
        watch.start()
        try:
            yield AttackedNetwork(cluster, watch)
        finally:
            watch.stop()
    finally:
        for member in cluster.members:
            member.signal(signal.SIGTERM)  # all at once: there is nobody left to be served
        await cluster.stop()
