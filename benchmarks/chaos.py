"""Measures what clients see of faults. Real processes, 10,000 requests a fault, and the bars that the design sets.

`python benchmarks/chaos.py [--only kill,freeze,silent,gray,overload,rolling] [--scale 1.0]`. Three nodes and a router share
this machine with the load, which comes at a fixed rate whatever becomes of it; latencies count from when a request was
due. Half of the load is half of what the same cluster answers when always 16 requests
are under way. `--scale` 0.1 is a tenth of the requests: to see that it runs, not for figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import keep, wait_quiet
from report import Report
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import engine_models  # noqa: E402 - found by the path set above, as all of these
from chaos_faults import FAULTS, SETTLED, TURNS, FaultSeen, one_fault, three_nodes  # noqa: E402
from clusters import (  # noqa: E402
    MODEL,
    Cluster,
    capacity,
    metrics_at,
    peer_of,
    requests,
    still_in_flight,
    until_in_rotation,
)
from evil_nodes import gray_node  # noqa: E402
from http_load import (  # noqa: E402
    Load,
    attempts_a_request,
    failed,
    failures,
    quantile_s,
    share_asked,
)

from capamesh.cli.member import Member  # noqa: E402
from capamesh.router.policies import DEFAULT_POLICY  # noqa: E402

SEED = 20260702
OVERLOAD_TURNS = 5000
"""20 ms: so that refusing a request costs next to nothing of a node's time, on cores that all share."""
REQUESTS = 10_000
MAX_FAULT_P99 = 3.0
MAX_RETURN_P99 = 2.0
MAX_BAD_SHARE = 0.001
MAX_RETURN_S = 5.0
ROLLING_LOAD = 0.25
"""The load during a rolling restart, as a part of the capacity: a process that starts keeps one of the cores, which all
share here, for 2 to 4 s."""
MIN_RETURN_SHARE = 0.1
"""The least share of one of three equal nodes; policies that go by latency share unevenly from second to second (guess)."""
MIN_GOODPUT = 0.9
MAX_EXTRA = 0.25
DEADLINE_S = 0.5
FAULT_ROUNDS = 3
"""The rounds of a fault. Quantiles count by their median, all else by its worst or its whole: a machine that stands still
for a moment itself is in the p99 of a few seconds."""


async def measure_fault(name: str, folder: Path, count: int, report: Report) -> None:
    """Let it happen several times, to new processes each time."""
    seen: list[FaultSeen] = []
    for number in range(FAULT_ROUNDS):
        here = folder / str(number)
        here.mkdir()
        seen.append(await one_fault(name, here, count, SEED + number))

    def of_all(
        what: str, figure: str, judge: Callable[[list[float]], float], most: float, **options: bool
    ) -> None:
        report.bar(name, what, judge([getattr(each, figure) for each in seen]), most, **options)

    of_all("failed requests", "failed", sum, 0)
    of_all("counters not back at 0", "left", sum, 0)
    of_all("p99 in the fault, of normal", "p99_in_fault", statistics.median, MAX_FAULT_P99)
    of_all(
        "share of requests at the bad node after 1 s", "bad_share", statistics.mean, MAX_BAD_SHARE
    )
    of_all("s until it answers again", "return_s", max, MAX_RETURN_S)
    of_all("p99 on its return, of normal", "p99_on_return", statistics.median, MAX_RETURN_P99)
    of_all("its share after its return", "return_share", min, MIN_RETURN_SHARE, is_least=True)
    report.note(name, rounds=[asdict(each) for each in seen])


async def measure_gray(folder: Path, count: int, report: Report) -> None:
    """Let one node of three fail in some of its runs."""
    for case, known, most in (
        ("gray: 10 % fail", 9, 0.75 / 3),
        ("gray: 90 % fail fast", 1, 0.25 / 3),
    ):
        async with three_nodes(folder / f"gray-{known}") as cluster:
            for _ in range(2):
                await cluster.add()
            await until_in_rotation(cluster.http_url, *[peer_of(node) for node in cluster.nodes])
            # what the other two can do is what is asked of all three
            rate = await capacity(cluster, TURNS) / 2
            async with gray_node(
                cluster, TURNS, lambda index, known=known: index % 10 >= known
            ) as bad:
                await until_in_rotation(cluster.http_url, bad)
                shots = await Load(cluster.http_url, MODEL).run(
                    requests(count, TURNS), rate=rate, seed=SEED
                )
            left = await still_in_flight(cluster.http_url)
        settled = shots[count // 5 :]
        report.bar(case, "failed requests", failed(shots), 0)
        report.bar(case, "counters not back at 0", len(left), 0)
        report.bar(case, "share of requests at the bad node", share_asked(settled, bad), most)
        report.note(
            case, rate=rate, failures=failures(shots)[:5], attempts=attempts_a_request(settled)
        )


def events(member: Member) -> Iterator[dict[str, Any]]:
    """Yield what a member has logged."""
    for line in member.log_file.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            yield json.loads(line)


async def measure_overload(folder: Path, seconds: float, report: Report) -> None:
    """Send twice of what three equal nodes can answer, each request with a deadline."""
    name = "2 x capacity"
    models = folder / "models"
    engine_models.save(engine_models.turning(OVERLOAD_TURNS), models, MODEL)
    async with Cluster(folder / "cluster", models) as cluster:
        for _ in range(3):
            await cluster.add()
        await until_in_rotation(cluster.http_url, *[peer_of(node) for node in cluster.nodes])
        most = await capacity(cluster, OVERLOAD_TURNS)
        before = await metrics_at(cluster.http_url)
        shots = await Load(cluster.http_url, MODEL).run(
            requests(int(2 * most * seconds), OVERLOAD_TURNS, timeout_s=DEADLINE_S),
            rate=2 * most,
            seed=SEED,
        )
        after = await metrics_at(cluster.http_url)
        left = await still_in_flight(cluster.http_url)
        ejected = [event for event in events(cluster.router) if event["event"] == "node_ejected"]
    began_s = shots[0].due_s
    answered = [
        shot
        for shot in shots
        if shot.is_answered and shot.is_right and shot.ended_s <= began_s + seconds
    ]
    refused_at_nodes = sum(
        value - before.get(key, 0)
        for key, value in after.items()
        if key.startswith("capamesh_attempts_failed_total")
    )
    extra = attempts_a_request(shots) - 1
    statuses = sorted({shot.status for shot in shots})
    report.bar(
        name, "goodput, of capacity", len(answered) / seconds / most, MIN_GOODPUT, is_least=True
    )
    report.bar(
        name, "p99 of the admitted, of the deadline", quantile_s(shots, 0.99) / DEADLINE_S, 1
    )
    report.bar(name, "retries and hedges a request", extra, MAX_EXTRA)
    report.bar(name, "ejections", len(ejected), 0)
    report.bar(name, "counters not back at 0", len(left), 0)
    unexpected = [shot for shot in shots if shot.status not in {200, 429, 503, 504}]
    report.bar(name, "answers other than 200, 429, 503, 504", len(unexpected), 0)
    report.note(
        name,
        capacity=most,
        offered=2 * most,
        statuses={str(code): sum(shot.status == code for shot in shots) for code in statuses},
        attempts_failed_or_refused_at_nodes=refused_at_nodes,
        p50_ms=quantile_s(shots, 0.5) * 1e3,
        p99_ms=quantile_s(shots, 0.99) * 1e3,
        kinds=failures(shots)[:5],
        ejected=[event.get("reason") for event in ejected],
    )


async def measure_rolling(folder: Path, report: Report) -> None:
    """Start all nodes anew one after the other, then one of two routers, while requests come."""
    name = "rolling restart"
    async with three_nodes(folder) as cluster:
        for _ in range(3):
            await cluster.add()
        router = await cluster.add_router()
        url = str(router.status()["http_address"])
        peers = [peer_of(node) for node in cluster.nodes]
        await until_in_rotation(cluster.http_url, *peers)
        await until_in_rotation(url, *peers)
        rate = await capacity(cluster, TURNS) * ROLLING_LOAD
        done = asyncio.Event()

        async def roll() -> None:
            try:
                for peer, node in zip(peers, list(cluster.nodes), strict=True):
                    await node.stop(45)
                    await cluster.start_again(node)
                    for each in (cluster.http_url, url):
                        await until_in_rotation(each, peer)
                await router.stop(45)
                await cluster.add_router(url.removeprefix("http://"))
                await until_in_rotation(url, *peers)
            finally:
                done.set()

        def stream() -> Iterator[tuple[bytes, bytes]]:
            numbered = requests(10**6, TURNS)
            while not done.is_set():
                yield next(numbered)
            yield from requests(500, TURNS)

        shots = await Load([cluster.http_url, url], MODEL).run(
            stream(), rate=rate, seed=SEED, at={SETTLED: roll}
        )
        left = {**await still_in_flight(cluster.http_url), **await still_in_flight(url)}
    report.bar(name, "failed requests", failed(shots), 0)
    report.bar(name, "counters not back at 0", len(left), 0)
    report.note(
        name,
        rate=rate,
        requests=len(shots),
        p99_ms=quantile_s(shots, 0.99) * 1e3,
        failures=failures(shots)[:5],
        sent_again_by_the_client=sum(shot.tries > 1 for shot in shots),
    )


async def measure(only: set[str], scale: float, report: Report, console: Console) -> None:
    """Run the scenarios, each with processes of its own."""
    count = max(400, int(REQUESTS * scale))
    with tempfile.TemporaryDirectory(prefix="capamesh-chaos-") as top:
        folder = Path(top)
        scenarios: dict[str, list[Callable[[Path], Awaitable[None]]]] = {
            name: [lambda here, name=name: measure_fault(name, here, count, report)]
            for name in FAULTS
        }
        scenarios["gray"] = [lambda here: measure_gray(here, max(400, count // 2), report)]
        scenarios["overload"] = [lambda here: measure_overload(here, 30 * scale, report)]
        scenarios["rolling"] = [lambda here: measure_rolling(here, report)]
        for name, parts in scenarios.items():
            if only and name not in only:
                continue
            for number, part in enumerate(parts):
                console.print(f"{name} {number + 1} of {len(parts)}")
                if scale >= 1.0:
                    await wait_quiet(60.0)
                here = folder / f"{name}-{number}"
                here.mkdir()
                await part(here)


def main() -> int:
    """Measure, print, keep; fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="names with commas between; empty: all")
    parser.add_argument("--scale", type=float, default=1.0, help="how many of the requests")
    arguments = parser.parse_args()
    console, report = Console(), Report()
    only = set(filter(None, arguments.only.split(",")))
    asyncio.run(measure(only, arguments.scale, report, console))
    report.show("what clients see of faults", console)
    figures = {
        "seed": SEED,
        "policy": DEFAULT_POLICY,
        "scale": arguments.scale,
        "cases": report.figures,
    }
    if arguments.scale == 1.0 and not only:
        console.print(f"kept in {keep('chaos', figures)}")
    else:
        console.print_json(json.dumps(figures, default=str))
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
