"""Measures what clients that misbehave cost those that do not: 900 who ask, in turns alone and beside 100 who are slow, cut, send garbage, too much, or floods.

`python benchmarks/misbehaving.py [--rounds 3] [--seconds 20] [--plain] [--kind slow_body]`. One router, by TLS unless told otherwise,
and two nodes. The bars: the 99th percentile of the others at most twice what it is alone, no request of theirs lost, 200 MiB of memory
at most, nothing kept once they are gone; and no callback that keeps the router's loop for over 0.1 s of CPU time. Clients share the cores, those
who misbehave with the least priority: they stand for other machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from machine import cpu_s, keep, memory_bytes
from report import Report
from rich.console import Console

from capamesh.cli.local_cluster import LocalCluster

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SUPPORT = ROOT / "tests" / "support"
sys.path.append(str(SUPPORT))
from certificates import Authority  # noqa: E402 - found by the line above
from misbehaving_clients import KINDS, slow_handshake  # noqa: E402 - likewise

ATTACK = "misbehaving_clients.py"
BEHAVING, MISBEHAVING = 900, 100
PAUSE_S = 3.0
"""The mean of the time between two requests of one client: some 300 a second of all."""
SETTLED_S = 1.0
"""Seconds at the beginning of an attack that count for neither."""
LOOK_S = 0.25
LIMIT_S = 90.0
MIB = 2**20
KEPT = {
    "open_requests": 1,  # the one that asks this
    "requests_in_flight": 0,
    "http_connections": 1,
    "http_body_bytes": 0,
    "http_body_bytes_arriving": 0,
    "streams": 0,
}
"""The metrics of what is held for clients, with what the one who asks for them holds."""


@asynccontextmanager
async def program(name: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program of this folder, or of the tests' support, with a pipe to and from it."""
    least, folder = (("nice", "-n", "19"), SUPPORT) if name == ATTACK else ((), HERE)
    process = await asyncio.create_subprocess_exec(
        *(*least, sys.executable, str(folder / name), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> bytes:
    """Return the next line that a program prints."""
    assert process.stdout is not None  # noqa: S101 - it was piped
    async with asyncio.timeout(LIMIT_S):
        return await process.stdout.readline()


async def result_of(process: asyncio.subprocess.Process) -> Any:  # noqa: ANN401 - as the program has it
    """End a program, and return what it came to."""
    assert process.stdin is not None  # noqa: S101 - it was piped
    process.stdin.close()
    return json.loads(await line_of(process))


class Run:
    """The figures of one router while its clients take turns."""

    def __init__(self, pid: int, url: str, trusting: ssl.SSLContext | None) -> None:
        self._pid = pid
        self._url = url
        self._trusting = trusting
        self.peak_bytes = 0
        self.cpu: dict[str, list[float]] = {}
        """The CPU time of the router in a second of each turn, by what was on."""
        self.kept_s: dict[str, list[float]] = {}
        """The most CPU time for which the loop was kept in each turn: the bound of the metric's bucket."""

    async def metrics(self) -> dict[str, float]:
        """Return the router's metrics."""
        connector = aiohttp.TCPConnector(ssl=self._trusting or True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"{self._url}/metrics") as reply,
        ):
            lines = (await reply.text()).splitlines()
        rows = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in rows}

    async def held(self) -> dict[str, float]:
        """Return what the router holds that it should not: the metrics of `KEPT` which are not 0 without the one who asks."""
        values = await self.metrics()
        found = {name: values[f"capamesh_{name}"] - own for name, own in KEPT.items()}
        return {name: value for name, value in found.items() if value}

    async def _busy(self) -> dict[float, float]:
        """Return how often the loop was kept for so long at most."""
        values = await self.metrics()
        return {
            float(name.partition('le="')[2].rstrip('"}')): count
            for name, count in values.items()
            if name.startswith("capamesh_event_loop_busy_seconds_bucket")
        }

    async def turn(self, crowd: asyncio.subprocess.Process, name: str, seconds: float) -> None:
        """Let a turn of the crowd be of that name for so long."""
        assert crowd.stdin is not None  # noqa: S101 - it was piped
        crowd.stdin.write(f"{name}\n".encode())
        before = await self._busy()
        used_s, began_s = cpu_s(self._pid), time.monotonic()
        while time.monotonic() < began_s + seconds:
            await asyncio.sleep(LOOK_S)
            self.peak_bytes = max(self.peak_bytes, memory_bytes(self._pid))
        spent_s = time.monotonic() - began_s
        share = (cpu_s(self._pid) - used_s) / spent_s
        after = await self._busy()
        counted = {bound: after[bound] - before[bound] for bound in after}
        kept_s = min(bound for bound, count in counted.items() if count == counted[math.inf])
        kind = name.partition(" ")[0]
        self.cpu.setdefault(kind, []).append(share)
        self.kept_s.setdefault(kind, []).append(kept_s)


async def measure(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """Note all figures."""
    authority = None if options.plain else Authority(folder / "authority")
    router_options = ["--arrival", "5"]
    if authority is not None:
        files = authority.server()
        os.environ["SSL_CERT_FILE"] = str(authority.file)  # for who waits until all is ready
        router_options += ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)]
    trusting = None if authority is None else authority.trusting()
    async with LocalCluster(
        folder / "cluster", options.models, nodes=2, router_options=tuple(router_options)
    ) as cluster:
        await cluster.wait_routable(2, models=["digits"])
        place = ("localhost", cluster.http_url.rpartition(":")[2])
        place = (*place, "-" if authority is None else str(authority.file))
        run = Run(cluster.router.pid, cluster.http_url, trusting)
        done: dict[str, int] = {}
        async with program("crowd.py", *place, str(BEHAVING), str(PAUSE_S)) as crowd:
            if await line_of(crowd) != b"asking\n":
                raise SystemExit("the crowd did not come together")
            await run.turn(crowd, "warming", 5.0)
            idle_bytes = run.peak_bytes = memory_bytes(cluster.router.pid)
            for number in range(options.rounds):
                await run.turn(crowd, f"alone {number}", options.seconds)
                attackers = (*place, str(MISBEHAVING), *options.kind)
                async with program(ATTACK, *attackers) as attack:
                    if await line_of(attack) != b"misbehaving\n":
                        raise SystemExit("those who misbehave did not begin")
                    await run.turn(crowd, "begins", SETTLED_S)
                    await run.turn(crowd, f"beside {number}", options.seconds)
                    for kind, count in (await result_of(attack)).items():
                        done[kind] = done.get(kind, 0) + count
                await run.turn(crowd, "ends", SETTLED_S)
            seen = await result_of(crowd)
        left: dict[str, float] = {}
        for _ in range(round(LIMIT_S / LOOK_S)):
            left = await run.held()
            if not left:
                break
            await asyncio.sleep(LOOK_S)
    note(report, options.rounds, seen, run, grown_mib=(run.peak_bytes - idle_bytes) / MIB)
    report.bar("all", "counts that are left", len(left), 0)
    wanted = options.kind or [
        kind.__name__ for kind in KINDS if authority is not None or kind is not slow_handshake
    ]
    had_way = sum(done.get(kind, 0) > 0 for kind in wanted)
    report.bar("all", "kinds that had their way", had_way, len(wanted), is_least=True)
    report.note("misbehaved", **done)


def note(
    report: Report, rounds: int, seen: dict[str, dict[str, Any]], run: Run, *, grown_mib: float
) -> None:
    """Note what the crowd has seen, and what it took of the router."""
    for part in ("p50_s", "p99_s"):
        pairs = [(seen[f"alone {at}"][part], seen[f"beside {at}"][part]) for at in range(rounds)]
        ratio = statistics.median(beside / alone for alone, beside in pairs)
        report.bar("others", f"{part[:3]}, as many times as alone", ratio, 2.0)
        report.note(part, alone=[one for one, _ in pairs], beside=[one for _, one in pairs])
    report.bar("others", "failed", sum(sum(each["failures"].values()) for each in seen.values()), 0)
    report.bar("router", "MiB beyond what 900 take", grown_mib, 200)
    report.bar("router", "longest keep of the loop, CPU s", max(run.kept_s["beside"]), 0.1)
    report.note("router_kept_s", **run.kept_s)
    report.note("router_cpu_share", **run.cpu)
    report.note("answered", **{name: each["answered"] for name, each in seen.items()})


def main() -> int:
    """Measure, show and keep the figures; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn")
    parser.add_argument("--plain", action="store_true", help="plain HTTP")
    parser.add_argument(
        "--kind", action="append", default=[], help="only clients of this kind; repeatable"
    )
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        uvloop.run(measure(options, Path(name), report))
    console = Console(width=120)
    report.show("900 clients beside 100 that misbehave", console)
    shares = report.figures["router_cpu_share"]
    console.print({name: [round(one, 3) for one in shares[name]] for name in ("alone", "beside")})
    asked = {name: value for name, value in vars(options).items() if name != "models"}
    keep("misbehaving", {"options": asked, **report.figures})
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
