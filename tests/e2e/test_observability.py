"""A real Prometheus beside a real network: every panel of every dashboard and every alert finds what it asks for."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import pytest
from clusters import Cluster, get
from http_load import DIGITS, Load, failures
from observability_alerts import ALERTS
from observability_asked import asked
from patience import until
from prometheus import PROMETHEUS, prometheus


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
                return any(
                    alert["labels"]["name"] == lost.name
                    and alert["annotations"]["summary"].startswith(f"{lost.name} (")
                    for alert in await running.firing("CapameshNodeLost")
                )

            await until(fired)
            page = await get(f"{cluster.http_url}/v1/nodes")
            assert [node["name"] for node in page["lost"]] == [lost.name]
            lines = cluster.router.log_file.read_text().splitlines()
            (line,) = [line for line in lines if "node_lost" in line]
            assert ("warning" in line, lost.name in line) == (True, True)
