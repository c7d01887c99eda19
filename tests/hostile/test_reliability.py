"""Whatever ends or stands still at light load, no request fails: the rows of the table in `SECURITY.md` and more."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
import pytest
from chaos import frozen, send_signal, sidecar_pid, worker_pids
from honest_client import BODY
from hostile import AttackedNetwork, Figures, attacked

from capamesh.cli.local_cluster import ANY_PORTS
from capamesh.cli.member import Member
from capamesh.protocol.network import Role

NODES = 2
SETTLE_S = 0.5
"""Before a fault, and after its end."""

Pids = Callable[[AttackedNetwork], Sequence[int]]


def one_worker(network: AttackedNetwork) -> list[int]:
    return worker_pids(network.nodes[0])


def all_workers(network: AttackedNetwork) -> list[int]:
    return [pid for node in network.nodes for pid in worker_pids(node)]


def node_sidecar(network: AttackedNetwork) -> list[int]:
    return [sidecar_pid(network.nodes[0])]


def router_sidecar(network: AttackedNetwork) -> list[int]:
    return [sidecar_pid(network.router)]


def worker_and_sidecar(network: AttackedNetwork) -> list[int]:
    return [*one_worker(network), *node_sidecar(network)]


def one_agent(network: AttackedNetwork) -> list[int]:
    return [network.nodes[0].pid]


def the_router(network: AttackedNetwork) -> list[int]:
    return [network.router.pid]


async def all_is_well(network: AttackedNetwork, before: Sequence[int] = ()) -> None:
    """Wait until all nodes can be asked again, and all their processes are others than those before."""
    async with asyncio.timeout(60):
        while True:
            sidecars = [
                each.status().get("sidecar_pid") for each in (network.router, *network.nodes)
            ]
            workers = [worker_pids(node) for node in network.nodes]
            now = {*sidecars, *all_workers(network)}
            if all(sidecars) and all(workers) and not now & set(before):
                break
            await asyncio.sleep(0.05)
    await network.cluster.wait_routable(NODES)


async def test_no_request_fails_whichever_processes_are_killed(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=NODES) as network:
        for kill in (one_worker, node_sidecar, router_sidecar, worker_and_sidecar, all_workers):
            pids = kill(network)
            async with network.honest() as seen:
                await asyncio.sleep(SETTLE_S)
                send_signal(pids, signal.SIGKILL)
                await asyncio.sleep(SETTLE_S)
                await all_is_well(network, pids)
            assert seen.failures == {}, kill.__name__
            figures.at_least(f"kill -9 of {kill.__name__}: answers", seen.answered, 10)
        async with network.honest() as seen:
            await asyncio.sleep(SETTLE_S)
            network.nodes[0].signal(signal.SIGKILL)
            await network.nodes[0].wait()
            await asyncio.sleep(2.0)
        assert seen.failures == {}


@pytest.mark.parametrize(
    ("stop", "seconds"),
    [
        (all_workers, 4.0),
        (the_router, 4.0),
        pytest.param(all_workers, 12.0, marks=pytest.mark.slow),
        pytest.param(one_worker, 8.0, marks=pytest.mark.slow),
        pytest.param(one_agent, 15.0, marks=pytest.mark.slow),
        pytest.param(node_sidecar, 15.0, marks=pytest.mark.slow),
        pytest.param(router_sidecar, 15.0, marks=pytest.mark.slow),
        pytest.param(the_router, 12.0, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_no_request_fails_whatever_stands_still_for_a_while(
    tmp_path: Path, sample_models: Path, stop: Pids, seconds: float
) -> None:
    async with attacked(tmp_path, sample_models, nodes=NODES) as network:
        async with network.honest() as seen:
            await asyncio.sleep(SETTLE_S)
            with frozen(stop(network)):
                await asyncio.sleep(seconds)
            await asyncio.sleep(SETTLE_S)
            await all_is_well(network)
        assert seen.failures == {}
        assert seen.answered > 0


async def test_no_request_fails_when_all_nodes_but_one_stop_together(
    tmp_path: Path, sample_models: Path
) -> None:
    async with attacked(tmp_path, sample_models, nodes=3) as network:
        async with network.honest() as seen:
            await asyncio.sleep(SETTLE_S)
            for node in network.nodes[1:]:
                node.signal(signal.SIGTERM)
            for node in network.nodes[1:]:
                assert await asyncio.wait_for(node.wait(), 40) == 0
            await asyncio.sleep(SETTLE_S)
        assert seen.failures == {}


async def start_again(network: AttackedNetwork) -> tuple[Member, float]:
    """Start the router anew in its folder and at its address; return it and when it began."""
    cluster, address = network.cluster, network.url.removeprefix("http://")
    mesh = cluster.router.status()["mesh_addresses"]
    cluster.router.signal(signal.SIGKILL)
    await cluster.router.wait()
    began_s = time.monotonic()
    router = await Member.start(
        "router",
        cluster.router.data_folder,
        ("router", "run", "--http", address, *ANY_PORTS),
        cluster._token(cluster._owner(), Role.ROUTER, mesh),
    )
    cluster._router = router
    return router, began_s


async def test_a_router_that_is_killed_serves_at_once_when_it_starts_again_on_its_folder(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=NODES) as network:
        url = f"{network.url}/v2/models/digits/infer"
        await asyncio.sleep(1.5)  # the fleet is written down a second after it changed
        slowness = busy()
        router, began_s = await start_again(network)
        statuses: list[int] = []
        async with aiohttp.ClientSession() as session:
            while 200 not in statuses:
                assert time.monotonic() < began_s + 30, router.last_lines()
                try:
                    async with session.post(url, data=BODY) as reply:
                        await reply.read()
                        statuses.append(reply.status)
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.01)
        answered_s = time.monotonic()
        assert statuses == [200]  # the first that it accepts is answered
        log = router.log_file.read_text("utf-8", "replace")
        assert '"last_fleet_restored"' in log
        figures.at_most(
            "a killed router, started on its folder: seconds until it answers",
            answered_s - began_s,
            max(slowness, busy()),
        )
        async with network.honest() as seen:
            await asyncio.sleep(SETTLE_S)
            await network.cluster.wait_routable(NODES)
        assert seen.failures == {}


def busy() -> float:
    """Return how many times longer than usual things take here now, at least 1: a bare interpreter usually takes 20 ms."""
    began_s = time.monotonic()
    for _ in range(3):
        subprocess.run([sys.executable, "-I", "-c", ""], check=True)
    return max(1.0, (time.monotonic() - began_s) / 3 / 0.02)
