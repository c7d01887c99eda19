"""Machines whose clock is wrong: they are served all the same, and say so."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaos import WallClock, why_no_clock
from chaos_cluster import metrics_at, peer_of
from hostile import AttackedNetwork, Figures, MemoryWatch
from polling import until

from capamesh.cli.local_cluster import LocalCluster
from capamesh.cli.member import Member

MINUTES_20_S = 1200.0
MINUTES_25_S = 1500.0
DAYS_40_S = 40 * 86_400.0
pytestmark = pytest.mark.skipif(bool(why_no_clock()), reason=why_no_clock())


@asynccontextmanager
async def network_of(
    folder: Path, models: Path, clock: WallClock
) -> AsyncIterator[AttackedNetwork]:
    """Run a router by `clock`, and two nodes whose clock is right."""
    cluster = LocalCluster(folder, models, 0, node_options=("--threads", "1"))
    try:
        with clock.applied():
            await cluster.start()
        await asyncio.gather(*(cluster.add_node() for _ in range(2)))
        await cluster.wait_routable(2)
        yield AttackedNetwork(cluster, MemoryWatch({}))
    finally:
        await cluster.stop()


async def start_again(cluster: LocalCluster, node: Member) -> Member:
    """Start a node that has ended anew, in its folder."""
    again = await Member.start(
        node.name,
        node.data_folder,
        ("node", "run", "--models", str(cluster.models), "--name", node.name, "--threads", "1"),
        node.data_folder.parent / f"{node.name}.token",
    )
    cluster.nodes[cluster.nodes.index(node)] = again
    return again


def events(member: Member) -> list[str]:
    """Return the names of what a member logged."""
    lines = member.log_file.read_text("utf-8", "replace").splitlines()
    return [json.loads(line).get("event", "") for line in lines if line.startswith("{")]


async def until_clock_is(member: Member, problem: str) -> None:
    async with asyncio.timeout(120):
        while True:
            if member.name != "router":
                member.signal(signal.SIGHUP)  # it says at once how it is, else every 5 s
            said = member.status()["clock"]["problem"]
            if said == problem or (problem and problem in said):
                return
            await asyncio.sleep(0.1)


async def until_logged(member: Member, event: str) -> None:
    """Wait until a member has logged this: its status may have been written before."""
    await until(lambda: event in events(member))


async def test_router_that_is_20_minutes_off_serves_a_fleet_and_says_whose_clock_is_wrong(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    clock = WallClock(tmp_path, "router")
    clock.jump_to(MINUTES_20_S)  # from its start
    async with network_of(tmp_path, sample_models, clock) as network:
        async with network.honest() as seen:
            await until_clock_is(network.router, "s behind this machine's")
            # no newcomer while it is behind: for its TLS a certificate of today is not valid yet
            clock.jump_to(-MINUTES_20_S)
            await until_clock_is(network.router, "ahead of this machine's")
            clock.jump_to(MINUTES_20_S)
            await network.cluster.add_node()
            await network.cluster.wait_routable(3)
            behind_s = (await metrics_at(network.url))["capamesh_clock_behind_seconds"]
            clock.jump_to(0.0)
            await until_clock_is(network.router, "")
        figures.at_most("a router 20 minutes off: requests that failed", seen.failed, 0)
        assert -MINUTES_20_S - 30 < behind_s < -MINUTES_20_S + 30
        assert len(await network.fleet()) == 3
        for event in ("clock_is_wrong", "clock_is_right"):
            await until_logged(network.router, event)


async def test_router_that_is_forty_days_ahead_for_a_moment_lets_nobody_go(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    clock = WallClock(tmp_path, "router")
    async with network_of(tmp_path, sample_models, clock) as network:
        async with network.honest() as seen:
            clock.jump_to(DAYS_40_S)
            await until_clock_is(network.router, "s behind this machine's")
            await asyncio.sleep(3)  # members are checked every 2 s
            clock.jump_to(0.0)
            await until_clock_is(network.router, "")
        figures.at_most("a router 40 days ahead and back: requests that failed", seen.failed, 0)
        assert len(await network.fleet()) == 2
        assert {"node_left", "node_unlinked", "mesh_down"}.isdisjoint(events(network.router))
        assert "expelled" not in network.router.log_file.read_text("utf-8", "replace")


async def test_node_that_is_20_minutes_off_is_used_and_says_that_its_clock_is_wrong(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    right, wrong = WallClock(tmp_path, "right"), WallClock(tmp_path, "wrong")
    async with network_of(tmp_path, sample_models, right) as network:
        with wrong.applied():
            node = await network.cluster.add_node()
        await network.cluster.wait_routable(3)
        async with network.honest() as seen:
            for offset_s, problem in ((MINUTES_20_S, "behind"), (-MINUTES_20_S, "ahead of")):
                wrong.jump_to(offset_s)
                await until_clock_is(node, f"{problem} this machine's: one of the two is wrong")
                assert peer_of(node) in await network.fleet()
        figures.at_most("beside a node 20 minutes off: requests that failed", seen.failed, 0)
        await until_logged(node, "clock_is_wrong")
        assert network.router.status()["clock"]["problem"] == ""


async def test_node_whose_clock_was_ahead_for_one_life_is_used_at_once_when_it_is_right(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    right, wrong = WallClock(tmp_path, "right"), WallClock(tmp_path, "wrong")
    async with network_of(tmp_path, sample_models, right) as network:
        with wrong.applied():
            node = await network.cluster.add_node()
            await network.cluster.wait_routable(3)
            async with network.honest() as seen:
                for offset_s in (MINUTES_25_S, 0.0):
                    await node.stop(30.0)
                    wrong.jump_to(offset_s)
                    node = await start_again(network.cluster, node)
                    if offset_s:
                        await until_logged(node, "clock_is_wrong")
                await until(lambda: node.status().get("state") == "ready")
                ready_s = time.monotonic()
                await network.cluster.wait_routable(3)
        figures.at_most(
            "a node 25 minutes ahead, then right: s until routable", time.monotonic() - ready_s, 2.0
        )
        figures.at_most("beside a node 25 minutes ahead: requests that failed", seen.failed, 0)
        assert peer_of(node) in await network.fleet()
