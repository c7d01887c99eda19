"""Machines whose clock is wrong: they are served all the same, and say so."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaos import WallClock, why_no_clock
from clusters import Cluster, metrics_at, nodes_at, peer_of, until_state
from engine_link import logged
from hostile import Figures
from patience import until

from capamesh.cli.member import Member

MINUTES_20_S = 1200.0
MINUTES_25_S = 1500.0
DAYS_40_S = 40 * 86_400.0
pytestmark = pytest.mark.skipif(bool(why_no_clock()), reason=why_no_clock())


@asynccontextmanager
async def network_of(folder: Path, models: Path, clock: WallClock) -> AsyncIterator[Cluster]:
    """Run a router by `clock`, and two nodes whose clock is right."""
    cluster = Cluster(folder, models)
    try:
        with clock.applied():
            await cluster.start()
        await asyncio.gather(*(cluster.add_node() for _ in range(2)))
        await cluster.wait_routable(2)
        yield cluster
    finally:
        await cluster.stop()


async def until_clock_is(member: Member, problem: str) -> None:
    """Wait until a member says of its clock that it has this problem, or none."""

    def is_so() -> bool:
        if member.name != "router":
            member.signal(signal.SIGHUP)  # it says at once how it is, else every 5 s
        said = str(member.status()["clock"]["problem"])
        return problem in said if problem else not said

    await until(is_so, every_s=0.1)


async def until_logged(member: Member, event: str) -> None:
    """Wait until a member has logged this: its status may have been written before."""
    await until(lambda: logged(member, event))


async def test_router_whose_clock_is_wrong_serves_a_fleet_says_whose_it_is_and_lets_nobody_go(
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
            await network.add_node()
            await network.wait_routable(3)
            behind_s = (await metrics_at(network.http_url))["capamesh_clock_behind_seconds"]
            clock.jump_to(0.0)
            await until_clock_is(network.router, "")
            clock.jump_to(DAYS_40_S)
            await until_clock_is(network.router, "s behind this machine's")
            await asyncio.sleep(3)  # members are checked every 2 s
            clock.jump_to(0.0)
            await until_clock_is(network.router, "")
        figures.at_most("a router 20 minutes, and 40 days off: failed", seen.failed, 0)
        assert -MINUTES_20_S - 30 < behind_s < -MINUTES_20_S + 30
        assert len(await nodes_at(network.http_url)) == 3
        for event in ("clock_is_wrong", "clock_is_right"):
            await until_logged(network.router, event)
        for event in ("node_left", "node_lost", "node_unlinked", "mesh_down"):
            assert logged(network.router, event) == []
        assert "expelled" not in network.router.log_file.read_text("utf-8", "replace")


async def test_node_whose_clock_is_wrong_is_used_and_is_used_at_once_when_it_is_right(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    right, wrong = WallClock(tmp_path, "right"), WallClock(tmp_path, "wrong")
    async with network_of(tmp_path, sample_models, right) as network:
        with wrong.applied():
            node = await network.add_node()
            await network.wait_routable(3)
            async with network.honest() as seen:
                for offset_s, problem in ((MINUTES_20_S, "behind"), (-MINUTES_20_S, "ahead of")):
                    wrong.jump_to(offset_s)
                    await until_clock_is(node, f"{problem} this machine's: one of the two is wrong")
                    assert peer_of(node) in await nodes_at(network.http_url)
                await until_logged(node, "clock_is_wrong")
                assert network.router.status()["clock"]["problem"] == ""
                # ahead for one life
                for offset_s in (MINUTES_25_S, 0.0):
                    await node.stop(30.0)
                    count = len(logged(node, "clock_is_wrong"))
                    wrong.jump_to(offset_s)
                    node = await network.start_again(node)
                    if offset_s:
                        await until(
                            lambda node=node, count=count: (  # type: ignore[misc]
                                len(logged(node, "clock_is_wrong")) > count
                            )
                        )
                await until_state(node, "ready")
                ready_s = time.monotonic()
                await network.wait_routable(3)
        took_s = time.monotonic() - ready_s
        figures.at_most("a node 25 minutes ahead, then right: s until routable", took_s, 2.0)
        figures.at_most("beside a node 20 and 25 minutes off: failed", seen.failed, 0)
        assert peer_of(node) in await nodes_at(network.http_url)
