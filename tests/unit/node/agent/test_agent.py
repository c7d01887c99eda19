"""One node's agent without its sidecar and workers: what it publishes, and when."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from fleet_fakes import NullLog, device_offer, offer

from capamesh.node.agent.agent import NodeAgent
from capamesh.node.agent.known_routers import MAX_ADDRESSES, MAX_ROUTERS, KnownRouters
from capamesh.node.agent.settings import NodeSettings
from capamesh.node.agent.status import Routers, standing
from capamesh.node.contract import messages
from capamesh.protocol.adverts import (
    KIND_GOODBYE,
    KIND_ROUTER,
    NodeAdvert,
    RouterAdvert,
    Sequence,
    SequenceSource,
    advert_from_body,
    open_envelope,
    router_to_body,
    seal,
)
from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import PeerId
from capamesh.protocol.membership_life import Ended
from capamesh.protocol.network import Membership, NetworkOwner, Role
from capamesh.protocol.system import System

NOW = dt.datetime.now(dt.UTC)
OWNER = NetworkOwner.create("home", NOW)


class SteadyRandom:
    """Draws the middle."""

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


class ARouter:
    """A router of the network, which a node hears."""

    def __init__(self, agent: NodeAgent) -> None:
        token = OWNER.invite(
            Role.ROUTER, expires_at=NOW + dt.timedelta(days=1), bootstrap=(), now=NOW
        )
        self._member = Membership.join(Identity.generate(), token, NOW)
        self._agent = agent
        self.restart()

    def restart(self) -> None:
        self._sequences = SequenceSource(time.time_ns())

    def says(self, nodes: int) -> None:
        peer, sequence = self._member.identity.peer_id, self._sequences.next()
        body = router_to_body(RouterAdvert(peer, sequence, ("10.0.0.1:7100",), "", "0.1", nodes))
        now_ms = time.time_ns() // 10**6
        self._agent._heard("demand", seal(KIND_ROUTER, body, self._member, sequence, now_ms), peer)


class Published:
    """What an agent publishes, with the second in which it does."""

    def __init__(self, agent: NodeAgent) -> None:
        self._agent = agent
        self.adverts: list[tuple[float, NodeAdvert]] = []
        self.goodbyes = 0

    def take(self, topic: str, raw: bytes) -> bool:
        assert topic.endswith("/adverts")
        envelope = open_envelope(raw, self._agent._trust, time.time_ns() // 10**6)
        if envelope.kind == KIND_GOODBYE:
            self.goodbyes += 1
            return True
        said = advert_from_body(envelope.body, envelope.sender.peer_id, envelope.sequence)
        self.adverts.append((asyncio.get_running_loop().time(), said))
        return True

    @property
    def times_s(self) -> list[float]:
        return [round(at_s, 2) for at_s, _ in self.adverts]

    @property
    def reported_s(self) -> list[int]:
        return [said.interval_s for _, said in self.adverts]


Scenario = Callable[[NodeAgent, Published], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], Published]:
    """Return what runs a scenario beside an announcing agent, in virtual time."""
    monkeypatch.setattr(DataDir, "lock", lambda _: None)  # held to the process's end
    monkeypatch.setattr("capamesh.node.agent.agent.System", lambda: System(rng=SteadyRandom()))
    token = OWNER.invite(Role.NODE, expires_at=NOW + dt.timedelta(days=1), bootstrap=(), now=NOW)
    (tmp_path / "models").mkdir()
    settings = NodeSettings(tmp_path / "data", tmp_path / "models", token.encode())

    async def scene(scenario: Scenario) -> Published:
        agent = NodeAgent(settings, NullLog())
        published = Published(agent)
        monkeypatch.setattr(agent._mesh, "publish", published.take)
        announcing = asyncio.create_task(agent._announcer.run())
        await asyncio.sleep(0)
        await scenario(agent, published)
        announcing.cancel()
        with suppress(asyncio.CancelledError):
            await announcing
        return published

    return lambda scenario: virtual_time.run(scene(scenario))


async def settle_at_100_s(agent: NodeAgent) -> ARouter:
    """Let a node hear long enough of a router with 1,000 nodes; it advertises at 135 s and 235 s."""
    router = ARouter(agent)
    for _ in range(14):
        await asyncio.sleep(10)
        router.says(1_000)
    return router


def test_change_is_said_at_once_and_again_after_3_s(
    play: Callable[[Scenario], Published],
) -> None:
    async def scenario(agent: NodeAgent, published: Published) -> None:
        await settle_at_100_s(agent)
        published.adverts.clear()
        for _ in range(2):
            agent._workers[0].heard(device_offer("a:1"))
        await asyncio.sleep(50)

    published = play(scenario)
    assert published.times_s == [140.05, 143.05]
    assert [len(said.models) for _, said in published.adverts] == [1, 1]


def test_node_that_drains_says_so_twice_and_goodbye(play: Callable[[Scenario], Published]) -> None:
    async def scenario(agent: NodeAgent, published: Published) -> None:
        await settle_at_100_s(agent)
        published.adverts.clear()
        draining = asyncio.create_task(agent._drain())
        await asyncio.sleep(20)
        agent._all_drained.set()
        await draining
        agent._announcer.publish(KIND_GOODBYE)

    published = play(scenario)
    assert published.times_s == [140, 143]
    assert all(said.is_draining for _, said in published.adverts)
    assert published.goodbyes == 1


UNTIL = datetime(2026, 3, 1, 20, 30, tzinfo=UTC)


def test_drained_node_says_until_when_and_one_that_cannot_serve_says_that_first() -> None:
    ready = [offer()]
    assert standing("serving", None, ready, Routers(1, 1, ()), None) == ("ready", "")
    assert standing("serving", None, ready, Routers(1, 1, ()), UNTIL) == (
        "draining",
        "by the network's owner, until 2026-03-01 20:30 UTC",
    )
    assert standing("serving", None, [], Routers(1, 1, ()), UNTIL)[0] == "waiting"
    assert standing("serving", None, ready, Routers(0, 1, ()), UNTIL)[0] == "waiting"
    assert standing("draining", None, ready, Routers(1, 1, ()), UNTIL) == (
        "draining",
        "",
    )
    ended = Ended("revoked", "by list 2")
    assert standing("serving", ended, ready, Routers(1, 1, ()), UNTIL) == (
        "revoked",
        "by list 2",
    )


PEER = "12D3KooWNorcHZHZSYheRM7kF1KVrQkqNEvpm7DhDokG9RWbgrEY"


@pytest.mark.parametrize(
    ("routers", "said"),
    [
        (Routers(0, 2, [f"/ip4/10.0.0.5/tcp/4001/p2p/{PEER}"]), "2 met in the mesh"),
        (Routers(0, 0, ()), "none met in the mesh; it has no router's address to dial"),
        (
            Routers(0, 0, [f"/ip4/10.0.0.5/tcp/4001/p2p/{PEER}", "/ip4/10.0.0.5/tcp/4001"]),
            "none met in the mesh; it dials /ip4/10.0.0.5/tcp/4001",
        ),
        (
            Routers(0, 0, [f"/dns/r{number}/tcp/4001/p2p/{PEER}" for number in range(5)]),
            "none met in the mesh; it dials /dns/r0/tcp/4001, /dns/r1/tcp/4001, /dns/r2/tcp/4001 and 2 more",
        ),
    ],
)
def test_node_without_a_link_says_where_it_looks_for_routers(routers: Routers, said: str) -> None:
    assert standing("serving", None, [offer()], routers, None) == (
        "waiting",
        f"no router has a link to it ({said})",
    )


def router(peer: str, *addresses: str) -> RouterAdvert:
    return RouterAdvert(PeerId(peer), Sequence(1, 1), addresses, "eu", "0.1")


def test_router_not_heard_of_for_ten_minutes_is_dialled_no_more() -> None:
    routers = KnownRouters()
    routers.heard(router("R", "r:1"), 0.0)
    routers.heard(router("S", "s:1"), 500.0)
    assert not routers.heard(router("S", "s:1"), 600.0)
    assert routers.heard(router("S", "s:1"), 600.1)
    assert routers.message() == messages.Routers({PeerId("S"): ("s:1",)})


def test_first_routers_are_dialled_at_a_few_addresses_and_endless_ones_are_not() -> None:
    routers = KnownRouters()
    many = tuple(f"r:{port}" for port in range(1, 65))
    for number in range(MAX_ROUTERS):
        assert routers.heard(router(f"R{number}", *many), 0.0)
    assert not routers.heard(router("one too many", "s:1"), 1.0)
    assert len(routers) == MAX_ROUTERS
    assert routers.message().routers[PeerId("R0")] == many[:MAX_ADDRESSES]
    assert routers.heard(router("one too many", "s:1"), 601.0)  # the others have fallen silent
    assert routers.heard(router("one too many", "s:1"), 602.0) is True
    assert routers.message() == messages.Routers({PeerId("one too many"): ("s:1",)})
