"""Members of a test network, each a real sidecar process under a real client."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import structlog
from link_sockets import Members

from capamesh.protocol.adverts import SequenceSource, open_envelope, seal
from capamesh.protocol.child import RestartPolicy
from capamesh.protocol.mesh.client import MeshClient
from capamesh.protocol.mesh.gossip import adverts_topic, demand_topic
from capamesh.protocol.network import Membership, Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

LIMIT_S = 120.0
LISTEN = ("/ip4/127.0.0.1/tcp/0",)


class Network(Members):
    """A network's owner and the members it admits."""

    def __init__(self, name: str = "test") -> None:
        super().__init__(Path("/nowhere"), name)
        self.adverts = adverts_topic(self.owner.network_id)
        self.demand = demand_topic(self.owner.network_id)


class TestMember:
    """A client that records what it is told, and lets a test wait for it."""

    __test__ = False

    def __init__(
        self,
        network: Network,
        membership: Membership,
        *,
        bootstrap: Iterable[str] = (),
        **options: Any,  # what MeshClient takes
    ) -> None:
        self.network = network
        self.membership = membership
        self.peer = membership.identity.peer_id
        self.sequences = SequenceSource(time.time_ns())
        self.heard: list[tuple[str, bytes, str]] = []
        self.ready = 0
        self.downs: list[str] = []
        self.reachable: list[str] = []
        self.revocations: list[bytes] = []
        self.drains: list[bytes] = []
        self._changed = asyncio.Event()
        is_router = membership.role is Role.ROUTER
        # A sidecar that has to wait for a core is silent, too.
        options = {"listen": LISTEN if is_router else (), "silent_limit_s": LIMIT_S} | options
        self.client = MeshClient(
            membership,
            bootstrap=tuple(bootstrap),
            subscribe=(network.adverts, network.demand) if is_router else (network.demand,),
            log=structlog.get_logger(),
            on_message=lambda *heard: self._note(self.heard, heard),
            on_ready=self._note_ready,
            on_subscribed=lambda topic, _: self._note(self.reachable, topic),
            on_members=lambda _: self._changed.set(),
            on_revocations=lambda encoded: self._note(self.revocations, encoded),
            on_drains=lambda encoded: self._note(self.drains, encoded),
            on_down=lambda reason: self._note(self.downs, reason),
            restart=RestartPolicy(first_s=0.05),
            **options,
        )

    def _note(self, notes: list[Any], note: object) -> None:
        notes.append(note)
        self._changed.set()

    def _note_ready(self, peer: str, addrs: tuple[str, ...]) -> None:
        assert peer == self.peer
        assert all(addr.endswith(f"/p2p/{peer}") for addr in addrs)
        self.ready += 1
        self._changed.set()

    async def until(self, holds: Callable[[], bool], what: str = "") -> None:
        """Wait until a condition on what was told holds."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while not holds():
                    self._changed.clear()
                    # Some of what is waited for, such as a counter, has no event.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await self._changed.wait()
        except TimeoutError:
            pytest.fail(
                f"not within {LIMIT_S} s: {what or holds}; {self.client}, {self.client.warnings}"
            )

    def envelope(self, body: Mapping[str, object]) -> bytes:
        """Seal a body with the next sequence. Its kind is unknown to this version, which the mesh carries."""
        now_ms = time.time_ns() // 10**6
        return seal("test", body, self.membership, self.sequences.next(), now_ms)

    def say(self, body: Mapping[str, object], topic: str | None = None) -> bytes:
        """Publish a body, by default where adverts go; return the envelope."""
        envelope = self.envelope(body)
        assert self.client.publish(topic or self.network.adverts, envelope)
        return envelope

    def has_heard(self, envelope: bytes) -> bool:
        """Whether this very envelope was delivered."""
        return any(data == envelope for _, data, _ in self.heard)

    def bodies(self) -> list[dict[str, object]]:
        """The bodies of all envelopes delivered, in order."""
        trust, now_ms = self.membership.trust(), time.time_ns() // 10**6
        return [open_envelope(data, trust, now_ms).body for _, data, _ in self.heard]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TestMember]:
        """Run the client for as long as the context lasts."""
        task = asyncio.create_task(self.client.run())
        try:
            await self.until(lambda: self.ready > 0, "ready")
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


MemberOf = Callable[..., AbstractAsyncContextManager[TestMember]]
AttackerOf = Callable[[Membership], AbstractAsyncContextManager["Attacker"]]


@dataclass
class Fleet:
    """Three routers and two nodes, connected."""

    network: Network
    routers: list[TestMember]
    nodes: list[TestMember]

    async def hears(self) -> None:
        """Prove that a node's publication still reaches every router."""
        envelope = self.nodes[0].say({"proof": time.time_ns()})
        for router in self.routers:
            await router.until(lambda router=router: router.has_heard(envelope), "honest gossip")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def fleet() -> AsyncIterator[Fleet]:
    """Start three routers and two nodes once for all tests."""
    network = Network()
    async with AsyncExitStack() as stack:
        first = TestMember(network, network.join(Role.ROUTER))
        await stack.enter_async_context(first.running())
        others = [
            TestMember(network, network.join(Role.ROUTER), bootstrap=first.client.addrs)
            for _ in range(2)
        ]
        for other in others:
            await stack.enter_async_context(other.running())
        routers = [first, *others]
        addrs = [router.client.addrs[0] for router in routers]
        nodes = [
            TestMember(network, network.join(Role.NODE), bootstrap=addrs[index : index + 2])
            for index in range(2)
        ]
        for node in nodes:
            await stack.enter_async_context(node.running())
        for node in nodes:
            await node.until(lambda node=node: network.adverts in node.reachable, "a listener")
        fleet = Fleet(network, routers, nodes)
        await first.until(lambda: len(first.client.members) == 3, "members")
        yield fleet


class Attacker:
    """The process of `attacker.py`, under a membership of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, attack: str, **arguments: object) -> object:
        """Have an attack carried out; return what it found out."""
        self._process.stdin.write(json.dumps({"attack": attack} | arguments).encode() + b"\n")
        async with asyncio.timeout(LIMIT_S):
            return json.loads(await self._process.stdout.readline())["result"]


@asynccontextmanager
async def attacking(
    victim: TestMember, membership: Membership, *, is_member: bool
) -> AsyncIterator[Attacker]:
    """Start an attacker of `victim`; as a member it first proves its membership."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("attacker.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=None if "MESH_TEST_LOG" in os.environ else asyncio.subprocess.DEVNULL,
    )
    settings = {
        "key": membership.identity.private_bytes.hex(),
        "chain": [one.hex() for one in membership.chain],
        "ca": membership.ca_der.hex(),
        "target": victim.client.addrs[0],
        "topics": [victim.network.adverts, victim.network.demand],
        "is_member": is_member,
    }
    process.stdin.write(json.dumps(settings).encode() + b"\n")
    try:
        yield Attacker(process)
    finally:
        process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def insider(fleet: Fleet) -> AsyncIterator[Attacker]:
    """An attacker of the first router that is a member."""
    first, membership = fleet.routers[0], fleet.network.join(Role.NODE)
    async with attacking(first, membership, is_member=True) as attacker:
        yield attacker


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stranger(fleet: Fleet, outsiders: Network) -> AsyncIterator[Attacker]:
    """An attacker of the first router that belongs to another network."""
    first, membership = fleet.routers[0], outsiders.join(Role.ROUTER)
    async with attacking(first, membership, is_member=False) as attacker:
        yield attacker


@pytest.fixture(scope="session")
def outsiders() -> Network:
    """Another network."""
    return Network("outsiders")


@pytest.fixture
def member(fleet: Fleet) -> MemberOf:
    """Return what runs one more member: by default a node of the fleet's network, which the first router lets in."""

    def start(
        membership: Membership | None = None,
        network: Network = fleet.network,
        **options: Any,  # what TestMember takes
    ) -> AbstractAsyncContextManager[TestMember]:
        if network is fleet.network:
            options.setdefault("bootstrap", fleet.routers[0].client.addrs)
        return TestMember(network, membership or network.join(Role.NODE), **options).running()

    return start


@pytest.fixture
def attacker_of_first(fleet: Fleet) -> AttackerOf:
    """Return what starts one more attacker of the first router, under a given membership."""

    def start(membership: Membership) -> AbstractAsyncContextManager[Attacker]:
        return attacking(fleet.routers[0], membership, is_member=False)

    return start
