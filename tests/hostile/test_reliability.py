"""Whatever ends or stands still at light load, no request fails: the rows of the table in `SECURITY.md` and more."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
import pytest
from chaos import frozen, send_signal, sidecar_pid, worker_pids
from free_ports import free_port
from honest_client import BODY
from hostile import AttackedNetwork, Figures, attacked
from machine_speed import times_slower
from polling import until

from capamesh.cli.local_cluster import ANY_PORTS
from capamesh.cli.member import Member
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.data_dir import STATUS_FILE
from capamesh.protocol.member_status import SERVING
from capamesh.protocol.network import Role
from capamesh.router.fleet.last_fleet_file import LAST_FLEET_FILE

NODES = 2
SETTLE_S = 0.5
"""After a fault's end; before it there was an answer."""

SERVES_S = 1.0
"""So much processor time, at the most, a router takes until it answers, and as many times as long as this machine is slower
than that of the bar; of up to three starts, for a machine that is busy with others is slower at all it does."""

STILL_BELIEVED_S = 5.0
"""From when it serves: nodes give up a silent link after 6 s."""
LINKED_S = 8.0
"""Most of it is the start of the router and of its mesh on a machine that is busy with others."""

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
    async with asyncio.timeout(120):
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
                send_signal(pids, signal.SIGKILL)
                await asyncio.sleep(SETTLE_S)
                await all_is_well(network, pids)
            assert seen.failures == {}, kill.__name__
            figures.at_least(f"kill -9 of {kill.__name__}: answers", seen.answered, 10)
        async with network.honest() as seen:
            network.nodes[0].signal(signal.SIGKILL)
            await network.nodes[0].wait()
            await asyncio.sleep(2.0)
        assert seen.failures == {}


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param([(all_workers, 3.0), (the_router, 3.0)], id="short"),
        pytest.param([(all_workers, 12.0)], id="all_workers", marks=pytest.mark.slow),
        pytest.param([(one_worker, 8.0)], id="one_worker", marks=pytest.mark.slow),
        pytest.param([(one_agent, 15.0)], id="one_agent", marks=pytest.mark.slow),
        pytest.param([(node_sidecar, 15.0)], id="node_sidecar", marks=pytest.mark.slow),
        pytest.param([(router_sidecar, 15.0)], id="router_sidecar", marks=pytest.mark.slow),
        pytest.param([(the_router, 12.0)], id="the_router", marks=pytest.mark.slow),
    ],
)
async def test_no_request_fails_whatever_stands_still_for_a_while(
    tmp_path: Path, sample_models: Path, stops: list[tuple[Pids, float]]
) -> None:
    async with attacked(tmp_path, sample_models, nodes=NODES) as network:
        for stop, seconds in stops:
            async with network.honest() as seen:
                with frozen(stop(network)):
                    await asyncio.sleep(seconds)
                await asyncio.sleep(SETTLE_S)
                await all_is_well(network)
            assert seen.failures == {}, stop.__name__
            assert seen.answered > 0


async def test_no_request_fails_when_all_nodes_but_one_stop_together(
    tmp_path: Path, sample_models: Path
) -> None:
    async with attacked(tmp_path, sample_models, nodes=3) as network:
        async with network.honest() as seen:
            for node in network.nodes[1:]:
                node.signal(signal.SIGTERM)
            for node in network.nodes[1:]:
                assert await asyncio.wait_for(node.wait(), 120) == 0
            await asyncio.sleep(SETTLE_S)
        assert seen.failures == {}


async def until_fleet_is_kept(router: Member) -> None:
    """Wait until a node that has a model ready is written down, as it is a second after the fleet changed, or ten."""
    file = router.data_folder / LAST_FLEET_FILE
    async with asyncio.timeout(120):
        while not file.exists() or ModelState.READY.encode() not in file.read_bytes():
            await asyncio.sleep(0.05)


def kept_ports() -> tuple[str, ...]:
    """Return the options of a router that is started again at its addresses: nobody is given its ports while it is away."""
    return ("--http", f"127.0.0.1:{free_port()}", "--mesh", f"127.0.0.1:{free_port()}")


async def start_again(
    network: AttackedNetwork, stop: signal.Signals, away_s: float = 0.0
) -> tuple[Member, float]:
    """Stop the router and start it anew in its folder and at its address; return it and when it began."""
    cluster, address = network.cluster, network.url.removeprefix("http://")
    await until(lambda: cluster.router.status().get("mesh_addresses"))  # told after it is logged
    mesh = cluster.router.status()["mesh_addresses"]
    mesh_port = mesh[0].split("/")[4]
    cluster.router.signal(stop)
    await cluster.router.wait()
    await asyncio.sleep(away_s)
    began_s = time.monotonic()
    router = await Member.start(
        "router",
        cluster.router.data_folder,
        # its nodes find it again where it was
        ("router", "run", "--http", address, *ANY_PORTS, "--mesh", f"127.0.0.1:{mesh_port}"),
        cluster._token_file("router", cluster._token(cluster._owner(), Role.ROUTER, mesh)),
    )
    cluster._router = router
    return router, began_s


async def test_router_that_ends_serves_at_once_when_it_starts_again_on_its_folder(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(
        tmp_path, sample_models, nodes=NODES, router_options=kept_ports()
    ) as network:
        for stop in (signal.SIGKILL, signal.SIGTERM):
            what = f"a router that was ended by {stop.name}, started on its folder:"
            used_s: list[float] = []
            while not used_s or (used_s[-1] > SERVES_S and len(used_s) < 3):
                slower = await asyncio.to_thread(times_slower)
                start_s = await processor_seconds_of_start(network, stop, figures, what)
                used_s.append(start_s / slower)
            figures.at_most(f"{what} processor seconds until it answers", min(used_s), SERVES_S)


async def processor_seconds_of_start(
    network: AttackedNetwork, stop: signal.Signals, figures: Figures, what: str
) -> float:
    """End the router and start it again; return the processor time that it took until it answered."""
    url = network.url  # stays, and is not told again before it serves
    await until_fleet_is_kept(network.router)
    router, began_s = await start_again(network, stop)
    assert await first_statuses(url, router) == [200]  # the first is answered
    used_s = processor_seconds(router.pid)
    figures.note(f"{what} seconds until it answers", time.monotonic() - began_s)
    async with network.honest() as seen:
        await asyncio.sleep(SETTLE_S)
        await network.cluster.wait_routable(NODES)
    assert seen.failures == {}
    async with asyncio.timeout(120):
        log = ""
        while '"mesh_ready"' not in log:
            await asyncio.sleep(0.05)
            log = router.log_file.read_text("utf-8", "replace")
            log = log[log.rindex('"last_fleet_restored"') :]
    assert log.index('"router_ready"') < log.index('"mesh_ready"')  # it did not wait for it
    return used_s


async def test_router_serves_at_once_though_its_nodes_still_believe_in_its_old_links(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=NODES) as network:
        old = network.router
        await until_fleet_is_kept(old)
        with frozen(
            [old.pid]
        ):  # as if its machine were gone: nothing ends the links that nodes have
            folder = tmp_path / "again"
            shutil.copytree(old.data_folder, folder, ignore=shutil.ignore_patterns("lock"))
            (folder / STATUS_FILE).unlink()
            router = await Member.start(
                "router",
                folder,
                ("router", "run", "--http", "127.0.0.1:0", *ANY_PORTS),
                network.cluster._token_file(
                    "router", network.cluster._token(network.cluster._owner(), Role.ROUTER)
                ),
            )
            try:
                while not (url := str(router.status().get("http_address", ""))):
                    await asyncio.sleep(0.01)
                began_s = time.monotonic()
                assert await first_statuses(url, router) == [200]
                what = "a router whose nodes believe in its old links: seconds until it answers, once it serves"
                figures.at_most(what, time.monotonic() - began_s, STILL_BELIEVED_S)
            finally:
                await router.stop(10)


@pytest.mark.slow
async def test_nodes_that_dial_are_linked_seconds_after_a_router_is_back_that_was_away_for_long(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    away_s = 25.0
    options = ("--dial-only",)
    async with attacked(
        tmp_path,
        sample_models,
        nodes=NODES,
        node_options=options,
        router_options=kept_ports(),
    ) as network:
        router, began_s = await start_again(network, signal.SIGKILL, away_s)
        while router.status().get("state") not in SERVING:
            await asyncio.sleep(0.05)
        await network.cluster.wait_routable(NODES)
        figures.at_most(
            f"a router that was away for {away_s:g} s: seconds until nodes that dial are linked",
            time.monotonic() - began_s,
            LINKED_S,
        )


async def first_statuses(url: str, router: Member) -> list[int]:
    """Ask until a request is answered; return what was said to those that were accepted."""
    statuses: list[int] = []
    until_s = time.monotonic() + 60
    async with aiohttp.ClientSession() as session:
        while 200 not in statuses:
            assert time.monotonic() < until_s, router.last_lines()
            try:
                async with session.post(f"{url}/v2/models/digits/infer", data=BODY) as reply:
                    await reply.read()
                    statuses.append(reply.status)
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)
    return statuses


def processor_seconds(pid: int) -> float:
    """Return how long a process's threads have run, which does not count what others had of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
