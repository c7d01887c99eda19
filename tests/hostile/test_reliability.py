"""Whatever ends or stands still at light load, no request fails: the rows of the table in `SECURITY.md` and more."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from chaos import frozen, send_signal, sidecar_pid, worker_pids
from clusters import kept_ports, until_status
from hostile import AttackedNetwork, Figures, attacked
from http_load import DIGITS, Load
from machine_speed import times_slower
from patience import until

from capamesh.cli.member import Member
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.data_dir import STATUS_FILE
from capamesh.protocol.member_status import SERVING
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
AWAY_S = 25.0

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

    def are_new() -> bool:
        members = (network.router, *network.nodes)
        sidecars = [each.status().get("sidecar_pid") for each in members]
        now = {*sidecars, *all_workers(network)}
        has_all = all(sidecars) and all(map(worker_pids, network.nodes))
        return has_all and not now & set(before)

    await until(are_new)
    await network.wait_routable(len(network.nodes))


async def test_no_request_fails_whichever_processes_are_killed_or_end(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=4) as network:
        for kill in (one_worker, node_sidecar, router_sidecar, worker_and_sidecar, all_workers):
            pids = kill(network)
            async with network.honest() as seen:
                send_signal(pids, signal.SIGKILL)
                await asyncio.sleep(SETTLE_S)
                await all_is_well(network, pids)
            assert seen.failures == [], kill.__name__
            figures.at_least(f"kill -9 of {kill.__name__}: answers", seen.answered, 10)
        # all but one, by an accident and by two operators at once
        async with network.honest() as seen:
            network.nodes[0].signal(signal.SIGKILL)
            await network.nodes[0].wait()
            await asyncio.sleep(2.0)
            for node in network.nodes[1:3]:
                node.signal(signal.SIGTERM)
            for node in network.nodes[1:3]:
                assert await asyncio.wait_for(node.wait(), 120) == 0
            await asyncio.sleep(SETTLE_S)
        assert seen.failures == []


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param([(all_workers, 3.0), (the_router, 3.0)], id="short"),
        pytest.param(
            [
                (all_workers, 12.0),
                (one_worker, 8.0),
                (one_agent, 15.0),
                (node_sidecar, 15.0),
                (router_sidecar, 15.0),
                (the_router, 12.0),
            ],
            id="long",
            marks=pytest.mark.slow,
        ),
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
            assert seen.failures == [], stop.__name__
            assert seen.answered > 0


async def until_fleet_is_kept(router: Member) -> None:
    """Wait until a node that has a model ready is written down, as it is a second after the fleet changed, or ten."""
    file = router.data_folder / LAST_FLEET_FILE
    await until(lambda: file.exists() and ModelState.READY.encode() in file.read_bytes())


async def test_router_that_ends_serves_at_once_when_it_starts_again_on_its_folder(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=NODES, **kept_ports()) as network:
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
    url = network.http_url  # stays, and is not told again before it serves
    await until_fleet_is_kept(network.router)
    network.router.signal(stop)
    await network.router.wait()
    began_s = time.monotonic()
    router = await network.start_router_again()
    assert await first_status(url, router) == 200
    used_s = processor_seconds(router.pid)
    figures.note(f"{what} seconds until it answers", time.monotonic() - began_s)
    async with network.honest() as seen:
        await asyncio.sleep(SETTLE_S)
        await network.wait_routable(NODES)
    assert seen.failures == []

    def log() -> str:
        text = router.log_file.read_text("utf-8", "replace")
        return text[text.rindex('"last_fleet_restored"') :]

    await until(lambda: '"mesh_ready"' in log())
    assert log().index('"router_ready"') < log().index('"mesh_ready"')  # it did not wait for it
    return used_s


async def test_router_serves_at_once_though_its_nodes_still_believe_in_its_old_links(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    async with attacked(tmp_path, sample_models, nodes=NODES) as network:
        old = network.router
        await until_fleet_is_kept(old)
        with frozen([old.pid]):  # as if its machine were gone: nothing ends the links of nodes
            folder = tmp_path / "again"
            shutil.copytree(old.data_folder, folder, ignore=shutil.ignore_patterns("lock"))
            (folder / STATUS_FILE).unlink()
            router = await network.add_router(folder=folder, is_waited_for=False)
            url = str(
                (await until_status(router, lambda it: it.get("http_address")))["http_address"]
            )
            began_s = time.monotonic()
            assert await first_status(url, router) == 200
            what = "a router whose nodes believe in its old links: seconds until it answers, once it serves"
            figures.at_most(what, time.monotonic() - began_s, STILL_BELIEVED_S)
            await router.stop(10)


@pytest.mark.slow
async def test_nodes_that_dial_are_linked_seconds_after_a_router_is_back_that_was_away_for_long(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    options = kept_ports() | {"node_options": ("--dial-only",)}
    async with attacked(tmp_path, sample_models, nodes=NODES, **options) as network:
        network.router.signal(signal.SIGKILL)
        await network.router.wait()
        await asyncio.sleep(AWAY_S)
        began_s = time.monotonic()
        router = await network.start_router_again()
        await until_status(router, lambda status: status.get("state") in SERVING)
        await network.wait_routable(NODES)
        what = f"a router that was away for {AWAY_S:g} s: seconds until nodes that dial are linked"
        figures.at_most(what, time.monotonic() - began_s, LINKED_S)


async def first_status(url: str, router: Member) -> int:
    """Ask until a request is taken; return what was said to it."""
    while router.is_running:
        (shot,) = await Load(url).run([DIGITS])
        if shot.status:
            return shot.status
        await asyncio.sleep(0.01)
    raise AssertionError(router.last_lines())


def processor_seconds(pid: int) -> float:
    """Return how long a process's threads have run, which does not count what others had of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
