"""A sidecar that dies or hangs comes back, and is heard again; a sidecar without an owner leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from free_ports import free_port

from capamesh.protocol import child as child_module
from capamesh.protocol.channel.backoff import SilenceWatch
from capamesh.protocol.network import Role

if TYPE_CHECKING:
    from conftest import Fleet, MemberOf

pytestmark = pytest.mark.asyncio(loop_scope="session")
LIMIT_S = 120.0
SILENT_LIMIT_S = 5.0


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[SilenceWatch, int]]:
    """Return what looks after the sidecars that are started from now on, patient, and how many pings each was to leave unanswered."""
    made: list[tuple[SilenceWatch, int]] = []

    def watch(**options: float) -> SilenceWatch:
        one = SilenceWatch(**options)
        made.append((one, one._silent_limit))
        one._silent_limit = round(LIMIT_S)  # one that has to wait for a core is silent, too
        return one

    monkeypatch.setattr(child_module, "SilenceWatch", watch)
    return made


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "killed by signal 9 (Killed)"),
        (signal.SIGSTOP, "silent for more than 5 s"),
    ],
)
async def test_lost_sidecar_of_a_node_comes_back_and_its_announcement_is_heard(
    fleet: Fleet,
    member: MemberOf,
    watches: list[tuple[SilenceWatch, int]],
    number: signal.Signals,
    reason: str,
) -> None:
    router = fleet.routers[1]
    membership = fleet.network.join(Role.NODE)
    options = {"bootstrap": router.client.addrs, "silent_limit_s": SILENT_LIMIT_S}
    async with member(membership, **options) as node:
        await node.until(lambda: fleet.network.adverts in node.reachable)
        # More messages than seconds: numbers counted from the second of the start would come again.
        for _ in range(20):
            before = node.say({"life": 1})
        await router.until(partial(router.has_heard, before))
        os.kill(node.client.pid, number)
        if number == signal.SIGSTOP:  # only one that is stopped is given up for its silence
            watch, watch._silent_limit = watches[0]
        await node.until(lambda: node.downs == [reason])
        node.reachable.clear()  # now that the lost one says nothing more
        assert node.client.publish(fleet.network.adverts, node.envelope({})) is False
        await node.until(lambda: node.ready == 2 and fleet.network.adverts in node.reachable)
        after = node.say({"life": 2})
        await router.until(partial(router.has_heard, after))


async def test_nodes_find_a_router_again_whose_sidecar_was_killed(
    fleet: Fleet, member: MemberOf
) -> None:
    membership = fleet.network.join(Role.ROUTER)
    listen = (f"/ip4/127.0.0.1/tcp/{free_port()}",)
    async with member(membership, listen=listen) as router:
        nodes = fleet.network.join(Role.NODE)
        async with member(nodes, bootstrap=router.client.addrs) as node:
            await node.until(lambda: fleet.network.adverts in node.reachable)
            node.reachable.clear()
            os.kill(router.client.pid, signal.SIGKILL)
            await node.until(lambda: fleet.network.adverts in node.reachable, "connected again")
            envelope = node.say({"still": "here"})
            await router.until(partial(router.has_heard, envelope))
            assert node.downs == []


async def test_router_is_found_by_its_name(fleet: Fleet, member: MemberOf) -> None:
    router = fleet.routers[2]
    address = router.client.addrs[0].replace("/ip4/127.0.0.1/", "/dns4/localhost/")
    async with member(fleet.network.join(Role.NODE), bootstrap=[address]) as node:
        await node.until(lambda: router.peer in node.client.members)


async def test_sidecar_exits_when_its_owner_is_killed(fleet: Fleet, tmp_path: Path) -> None:
    membership = fleet.network.join(Role.NODE)
    membership.save(tmp_path)
    program = """
import asyncio, sys, structlog
from datetime import UTC, datetime
from pathlib import Path
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.network import Membership
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
client = MeshClient(Membership.load(Path(sys.argv[1]), datetime.now(UTC)), listen=(), bootstrap=sys.argv[2:],
    subscribe=(), log=structlog.get_logger(), on_members=lambda _: print(client.pid, flush=True))
asyncio.run(client.run())
"""
    first = fleet.routers[0]
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        str(tmp_path),
        *first.client.addrs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    peer = membership.identity.peer_id
    try:
        pid = int(await owner.stdout.readline())
        await first.until(lambda: peer in first.client.members)
        command = Path(f"/proc/{pid}/cmdline").read_bytes()  # noqa: ASYNC240  # a proc file answers at once
        assert b"capamesh.protocol.mesh" in command
    finally:
        owner.kill()
        await owner.wait()
    await first.until(lambda: peer not in first.client.members, "the sidecar's connection ends")
