"""A real Prometheus beside a real network: every panel of every dashboard and every alert finds what it asks for."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cluster_load import digits_stream
from free_ports import free_port
from generate_observability import FOLDER, scraping
from observability_alerts import ALERTS
from observability_asked import asked

from capamesh.cli.local_cluster import LocalCluster

PROMETHEUS = shutil.which("prometheus")
FEW_REQUESTS = 50
LIMIT_S = 120.0
"""How long to wait for data (guess: two scrapes and a rate need 2 s)."""


class Prometheus:
    """A Prometheus that runs, asked over HTTP."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def get(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as reply:
            body = await reply.json()
        assert body["status"] == "success", body
        return body["data"]

    async def has_data(self, query: str) -> bool:
        found = await self.get("query", query=query)
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
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(PROMETHEUS),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    assert process.returncode is None, (folder / "log").read_text()
                    try:
                        async with session.get(f"http://127.0.0.1:{port}/-/ready") as reply:
                            if reply.status == 200:
                                break
                    except aiohttp.ClientConnectionError:
                        pass
                    await asyncio.sleep(0.05)
            yield Prometheus(f"http://127.0.0.1:{port}", session)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.mark.skipif(
    PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus"
)
async def test_every_panel_and_every_alert_has_data_on_a_small_network(
    built_models: Path, tmp_path: Path
) -> None:
    samples, cases = built_models, built_models.parent / "cases" / "digits.npz"
    async with LocalCluster(
        tmp_path / "cluster", samples, nodes=1, node_options=("--metrics", "127.0.0.1:0")
    ) as cluster:
        await cluster.wait_routable(1)
        pages = [node.status()["metrics"] for node in cluster.nodes]
        routers = [cluster.http_url.removeprefix("http://")]
        nodes = [page.removeprefix("http://").removesuffix("/metrics") for page in pages]
        async with prometheus(tmp_path / "prometheus", routers, nodes) as running:
            empty = asked(rate_over="10s")
            try:
                async with asyncio.timeout(LIMIT_S):
                    while empty:
                        seen = await digits_stream(
                            cluster.http_url, cases, count=FEW_REQUESTS, concurrency=4
                        )
                        assert seen.answered == FEW_REQUESTS
                        for name, query in list(empty.items()):
                            if await running.has_data(query):
                                del empty[name]
            except TimeoutError:
                pass
            assert sorted(empty) == []
            async with asyncio.timeout(LIMIT_S):
                while True:
                    (group,) = (await running.get("rules"))["groups"]
                    if all(rule["health"] != "unknown" for rule in group["rules"]):
                        break
                    await asyncio.sleep(0.1)
            assert {rule["name"]: rule["health"] for rule in group["rules"]} == {
                alert.name: "ok" for alert in ALERTS
            }
            targets = (await running.get("targets"))["activeTargets"]
            assert [target["health"] for target in targets] == ["up", "up"]
