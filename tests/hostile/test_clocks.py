"""Machines whose clock is wrong: they are served all the same, and say so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaos import WallClock, why_no_clock
from chaos_cluster import metrics_at, peer_of, until_in_rotation
from hostile import AttackedNetwork, Figures, MemoryWatch

from capamesh.cli.local_cluster import LocalCluster
from capamesh.cli.member import Member

MINUTES_20_S = 1200.0
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
        for _ in range(2):
            await cluster.add_node()
        await cluster.wait_routable(2)
        yield AttackedNetwork(cluster, MemoryWatch({}))
    finally:
        await cluster.stop()


def events(member: Member) -> list[str]:
    """Return the names of what a member logged."""
    lines = member.log_file.read_text("utf-8", "replace").splitlines()
    return [json.loads(line).get("event", "") for line in lines if line.startswith("{")]


async def until_clock_is(member: Member, problem: str) -> None:
    async with asyncio.timeout(30):
        while True:
            said = member.status()["clock"]["problem"]
            if said == problem or (problem and problem in said):
                return
            await asyncio.sleep(0.1)


async def test_a_router_that_is_20_minutes_off_serves_a_fleet_and_says_whose_clock_is_wrong(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    clock = WallClock(tmp_path, "router")
    clock.jump_to(MINUTES_20_S)  # from its start
    async with network_of(tmp_path, sample_models, clock) as network:
        async with network.honest() as seen:
            await until_clock_is(network.router, "s behind this machine's")
            for offset_s in (-MINUTES_20_S, MINUTES_20_S):
                clock.jump_to(offset_s)
                newcomer = await network.cluster.add_node()
                await until_in_rotation(network.url, peer_of(newcomer))
            behind_s = (await metrics_at(network.url))["capamesh_clock_behind_seconds"]
            clock.jump_to(0.0)
            await until_clock_is(network.router, "")
        figures.at_most("a router 20 minutes off: requests that failed", seen.failed, 0)
        assert -MINUTES_20_S - 30 < behind_s < -MINUTES_20_S + 30
        assert len(await network.fleet()) == 4
        assert {"clock_is_wrong", "clock_is_right"} <= set(events(network.router))


async def test_a_router_that_was_forty_days_ahead_keeps_its_links_and_is_itself_again_at_once(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    clock = WallClock(tmp_path, "router")
    async with network_of(tmp_path, sample_models, clock) as network:
        async with network.honest() as seen:
            clock.jump_to(DAYS_40_S)
            await asyncio.sleep(6)  # members are checked every 2 s
            clock.jump_to(0.0)
            back_s = time.monotonic()
            newcomer = await network.cluster.add_node()
            await until_in_rotation(network.url, peer_of(newcomer))
            back_s = time.monotonic() - back_s
        figures.at_most("a router 40 days ahead and back: requests that failed", seen.failed, 0)
        figures.at_most("until a new node is used after that, s", back_s, 20)
        assert len(await network.fleet()) == 3


@pytest.mark.parametrize("offset_s", [MINUTES_20_S, -MINUTES_20_S])
async def test_a_node_that_is_20_minutes_off_is_used_and_says_that_its_clock_is_wrong(
    tmp_path: Path, sample_models: Path, offset_s: float, figures: Figures
) -> None:
    right, wrong = WallClock(tmp_path, "right"), WallClock(tmp_path, "wrong")
    async with network_of(tmp_path, sample_models, right) as network:
        async with network.honest() as seen:
            wrong.jump_to(offset_s)
            with wrong.applied():
                node = await network.cluster.add_node()
            await until_in_rotation(network.url, peer_of(node))
            await until_clock_is(node, "one of the two is wrong")
        figures.at_most("beside a node 20 minutes off: requests that failed", seen.failed, 0)
        assert "clock_is_wrong" in events(node)
        assert network.router.status()["clock"]["problem"] == ""
