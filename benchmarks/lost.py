"""Measures in how many seconds each view of a router tells of a lost node by its name, and that it is back: real processes.

    python benchmarks/lost.py [--only frozen]

A row is a way to lose a node: its process is killed, all its processes are frozen, it dials the routers and has no address, the router has
workers, another router looks on, or the router is started anew while it is lost. The views are `capamesh nodes` and `top`, `/v1/nodes`,
the page, the metrics, the log, and the alert of a real Prometheus with the rules of this repository that scrapes every
second, where one is installed. The bar: 30 s until every view but the alert tells of it, and 60 s until the alert does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
from machine import keep
from report import Report
from rich.console import Console

from capamesh.cli.member import Member

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "scripts")]
from chaos import own_pids, send_signal, sidecar_pid  # noqa: E402 - found by the line above
from clusters import Cluster, kept_ports, until_state  # noqa: E402 - likewise
from patience import until  # noqa: E402 - likewise
from prometheus import PROMETHEUS, prometheus  # noqa: E402 - likewise

LOST_S, ALERTED_S, BACK_S = 30.0, 60.0, 30.0
PATIENCE_S = 120.0
POLL_S = 0.5
METRIC = "capamesh_fleet_lost_timestamp_seconds{"
View = Callable[[], Awaitable[bool]]
"""Says whether a view shows the node as lost."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to lose a node."""

    name: str
    node_options: tuple[str, ...] = ()
    router_options: tuple[str, ...] = ()
    is_frozen: bool = False
    is_router_restarted: bool = False
    """True if the router is started anew once the node is lost; what is told after that is measured from when it serves."""


CASES = (
    Case("killed"),
    Case("killed, dial-only", node_options=("--dial-only",)),
    Case("killed, router with 2 workers", router_options=("--workers", "2")),
    Case("killed, router started anew", is_router_restarted=True),
    Case("frozen", is_frozen=True),
    Case("frozen, dial-only", node_options=("--dial-only",), is_frozen=True),
)


class Views:
    """What the routers of a network show of one of its nodes."""

    def __init__(self, cluster: Cluster, name: str, session: aiohttp.ClientSession) -> None:
        self._cluster = cluster
        self._name = name
        self._session = session

    def all(self) -> dict[str, View]:
        """Return the views by their names."""
        others = {
            f"/v1/nodes of {router.name}": partial(self._nodes, router)
            for router in self._cluster.more_routers
        }
        return {
            **others,
            "capamesh nodes": lambda: self._command("nodes"),
            "capamesh top": lambda: self._command("top"),
            "/v1/nodes": lambda: self._nodes(self._cluster.router),
            "page": self._page,
            "metrics": self._metrics,
            "log": self._log,
        }

    async def _text(self, router: Member, path: str) -> str:
        try:
            async with self._session.get(f"{router.status()['http_address']}{path}") as reply:
                return await reply.text()
        except aiohttp.ClientError:
            return "{}"

    async def _command(self, command: str) -> bool:
        words = (sys.executable, "-m", "capamesh.cli", command, "--json")
        process = await asyncio.create_subprocess_exec(
            *words,
            "--router",
            self._cluster.http_url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await process.communicate()
        found = json.loads(out or b"{}")
        rows = found.get("lost", found.get("nodes", []))
        rows = rows if isinstance(rows, list) else rows.values()
        return any(
            row["name"] == self._name and (row.get("lost_at") or row.get("state") == "lost")
            for row in rows
        )

    async def _nodes(self, router: Member) -> bool:
        page = json.loads(await self._text(router, "/v1/nodes"))
        return any(row["name"] == self._name for row in page.get("lost", []))

    async def _page(self) -> bool:
        page = json.loads(await self._text(self._cluster.router, "/v1/page/snapshot"))
        rows = page.get("nodes", {}).values()
        return any((row["name"], row["state"]) == (self._name, "lost") for row in rows)

    async def _metrics(self) -> bool:
        lines = (await self._text(self._cluster.router, "/metrics")).splitlines()
        return any(METRIC in line and f'name="{self._name}"' in line for line in lines)

    async def _log(self) -> bool:
        lines = self._cluster.router.log_file.read_text().splitlines()
        events = [
            json.loads(line) for line in lines if "node_lost" in line or "node_returned" in line
        ]
        last = [event for event in events if event.get("node") == self._name][-1:]
        return any(event["event"] == "node_lost" and event["level"] == "warning" for event in last)


async def times(views: Mapping[str, View], *, is_lost: bool) -> dict[str, float]:
    """Return in how many seconds from now on each view shows that the node is lost, or is not."""
    began_s = time.monotonic()

    async def taken_s(view: View) -> float:
        async def is_so() -> bool:
            return await view() is is_lost

        await until(is_so, every_s=POLL_S, limit_s=PATIENCE_S)
        return round(time.monotonic() - began_s, 1)

    found = await asyncio.gather(*map(taken_s, views.values()), return_exceptions=True)
    return {
        name: each if isinstance(each, float) else float("inf")
        for name, each in zip(views, found, strict=True)
    }


async def measure(case: Case, folder: Path, models: Path, report: Report) -> None:
    """Note the figures of one case, in a network of its own."""
    async with AsyncExitStack() as stack:
        ports = kept_ports() if case.is_router_restarted else {}
        options = {"node_options": ("--threads", "1", *case.node_options)}
        if case.router_options:
            options["router_options"] = case.router_options
        cluster = await stack.enter_async_context(
            Cluster(folder / "cluster", models, 2, **options, **ports)
        )
        await cluster.wait_routable(2)
        if not case.is_router_restarted:  # whose ports another cannot have
            await cluster.add_router()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        node = cluster.nodes[0]
        await asyncio.sleep(12.0)  # all have heard of all
        views = Views(cluster, node.name, session).all()
        alert: dict[str, View] = {}
        if PROMETHEUS is not None:
            addresses = [
                str(router.status()["http_address"]).removeprefix("http://")
                for router in (cluster.router, *cluster.more_routers)
            ]
            server = await stack.enter_async_context(
                prometheus(folder / "prometheus", addresses, [])
            )

            async def fires() -> bool:
                found = await server.firing("CapameshNodeLost")
                return any(each["labels"]["name"] == node.name for each in found)

            alert = {"alert": fires}
        pids = [*own_pids(node), sidecar_pid(node)]
        if case.is_frozen:
            send_signal(pids, signal.SIGSTOP)
        else:
            node.signal(signal.SIGKILL)
        lost = await times({**views, **alert}, is_lost=True)
        if case.is_router_restarted:
            cluster.router.signal(signal.SIGKILL)
            await cluster.router.wait()
            await cluster.start_router_again()
            await until_state(cluster.router, "ready")
            lost = await times(views, is_lost=True)
        if case.is_frozen:
            send_signal(pids, signal.SIGCONT)
        else:
            await cluster.start_again(node)
        back = await times({**views, **alert}, is_lost=False)
    for kind, seen, bar_s in (("lost", lost, LOST_S), ("back", back, BACK_S)):
        for view, seconds in seen.items():
            report.bar(
                f"{case.name}: {kind}",
                f"{view}, s",
                seconds,
                ALERTED_S if view == "alert" else bar_s,
            )
    report.note(case.name, lost=lost, back=back)
    print(f"{case.name}: lost {lost}, back {back}", flush=True)


async def measure_all(options: argparse.Namespace, folder: Path, report: Report) -> None:
    """Measure the cases one by one."""
    for number, case in enumerate(CASES):
        if options.only in case.name:
            await measure(case, folder / str(number), options.models, report)


def main() -> int:
    """Measure, show and keep the figures; 1 where a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--models", type=Path, default=ROOT / "build" / "models")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(len(CASES)):
            (folder / str(number)).mkdir()
        asyncio.run(measure_all(options, folder, report))
    report.show("seconds until a view tells of a lost node", Console(width=120))
    keep("lost", {"only": options.only, **report.figures})
    return 0 if report.is_held else 1


if __name__ == "__main__":
    sys.exit(main())
