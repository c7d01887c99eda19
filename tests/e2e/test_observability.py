"""A real Prometheus beside a real network: every panel of every dashboard and every alert finds what it asks for."""

from __future__ import annotations

import asyncio
import math
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from clusters import Cluster, get
from free_ports import free_port
from generate_observability import FOLDER, scraping
from http_load import DIGITS, Load, failures
from observability_alerts import ALERTS
from observability_asked import asked
from polling import until

PROMETHEUS = shutil.which("prometheus")


class Prometheus:
    """A Prometheus that runs, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def get(self, path: str) -> Any:
        body = await get(f"{self._url}/api/v1/{path}")
        assert body["status"] == "success", body
        return body["data"]

    async def has_data(self, query: str) -> bool:
        found = await self.get(f"query?query={quote(query)}")
        return any(not math.isnan(float(each["value"][1])) for each in found["result"])


def configure(folder: Path, configuration: str) -> None:
    """Make a folder with a configuration that scrapes every second, and the alerts."""
    folder.mkdir()
    shutil.copy(FOLDER / "alerts.yml", folder)
    quick = configuration.replace("interval: 5s", "interval: 1s")
    (folder / "prometheus.yml").write_text(quick)


@asynccontextmanager
async def prometheus(
    folder: Path, routers: list[str], nodes: list[str]
) -> AsyncIterator[Prometheus]:
    """Run one that scrapes these members every second and knows the alerts."""
    configure(folder, scraping(routers, nodes))
    url = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(PROMETHEUS),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={url}",
            stdout=log,
            stderr=log,
        )

    async def is_ready() -> bool:
        assert process.returncode is None, (folder / "log").read_text()
        with suppress(aiohttp.ClientConnectionError):
            async with aiohttp.ClientSession() as session:
                return (await session.get(f"http://{url}/-/ready")).status == 200
        return False

    try:
        await until(is_ready)
        yield Prometheus(f"http://{url}")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.mark.skipif(
    PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus"
)
async def test_every_panel_and_every_alert_has_data_on_a_small_network_and_a_lost_node_is_alerted(
    built_models: Path, tmp_path: Path
) -> None:
    options = ("--metrics", "127.0.0.1:0")
    async with Cluster(tmp_path / "cluster", built_models, 2, node_options=options) as cluster:
        await cluster.wait_routable(2)
        routers = [cluster.http_url.removeprefix("http://")]
        page = cluster.nodes[0].status()["metrics"]
        nodes = [page.removeprefix("http://").removesuffix("/metrics")]
        async with prometheus(tmp_path / "prometheus", routers, nodes) as running:
            empty = asked(rate_over="10s")

            async def has_all() -> bool:
                shots = await Load(cluster.http_url).run([DIGITS] * 50, concurrency=4)
                assert failures(shots) == []
                for name, query in list(empty.items()):
                    if await running.has_data(query):
                        del empty[name]
                return not empty

            with suppress(TimeoutError):
                await until(has_all)
            assert sorted(empty) == []

            async def rules() -> dict[str, str]:
                (group,) = (await running.get("rules"))["groups"]
                return {rule["name"]: rule["health"] for rule in group["rules"]}

            async def are_known() -> bool:
                return "unknown" not in (await rules()).values()

            await until(are_known)
            assert await rules() == {alert.name: "ok" for alert in ALERTS}
            targets = (await running.get("targets"))["activeTargets"]
            assert [target["health"] for target in targets] == ["up", "up"]

            # a node that is killed is named by the page, the log and an alert
            lost = cluster.nodes[1]
            lost.signal(signal.SIGKILL)

            async def fired() -> bool:
                alerts = (await running.get("alerts"))["alerts"]
                return any(
                    alert["state"] == "firing"
                    and alert["labels"].get("name") == lost.name
                    and alert["annotations"]["summary"].startswith(f"{lost.name} (")
                    for alert in alerts
                    if alert["labels"]["alertname"] == "CapameshNodeLost"
                )

            await until(fired)
            page = await get(f"{cluster.http_url}/v1/nodes")
            assert [node["name"] for node in page["lost"]] == [lost.name]
            lines = cluster.router.log_file.read_text().splitlines()
            (line,) = [line for line in lines if "node_lost" in line]
            assert ("warning" in line, lost.name in line) == (True, True)
