"""A sidecar that dies or hangs comes back, and is heard again; a sidecar without an owner leaves."""

from __future__ import annotations

import os
import signal
from functools import partial
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
    async with (
        member(membership, listen=listen, bootstrap=()) as router,
        member(bootstrap=router.client.addrs) as node,
    ):
        await node.until(lambda: fleet.network.adverts in node.reachable)
        node.reachable.clear()
        os.kill(router.client.pid, signal.SIGKILL)
        await node.until(lambda: fleet.network.adverts in node.reachable, "connected again")
        envelope = node.say({"still": "here"})
        await router.until(partial(router.has_heard, envelope))
        assert node.downs == []
