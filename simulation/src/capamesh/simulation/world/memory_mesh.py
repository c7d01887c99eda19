"""The mesh of a world: what a member publishes reaches the others after a while, or not at all. Pure but for asyncio.

What the sidecar does beside that (libp2p, its admission, its limits) has tests of its own; signatures, revocations and ages of adverts
are checked by whoever hears them, as ever.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from capamesh.router.process.seat import Mesh
from capamesh.simulation.memory_tcp import MACHINE, Machine, MemoryNetwork

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.network import Membership


class MeshBus:
    """All members' ends."""

    def __init__(self, network: MemoryNetwork, rng: random.Random) -> None:
        self._network = network
        self._rng = rng
        self._ends: dict[MemoryMesh, None] = {}
        self._orders: dict[str, bytes] = {}
        """The newest order of each kind."""
        self.loss = 0.0
        """The share of messages that are lost on their way to one member."""
        self.most_delay_s = 0.1
        """The longest that one takes; they overtake one another."""

    def joined(self, end: MemoryMesh) -> None:
        """Take in that a member listens: those who are there already hear of it, and it hears the newest orders."""
        for kind, raw in self._orders.items():
            self.deliver(end, end, end.hear[kind], raw)
        self._ends[end] = None
        for other in list(self._ends):
            for listening, told in ((end, other), (other, end)):
                if listening is not told:
                    for topic in listening.subscribed:
                        self.deliver(listening, told, told.on_subscribed, topic, (listening.peer,))

    def left(self, end: MemoryMesh) -> None:
        """Take in that a member's process has ended."""
        self._ends.pop(end, None)

    def publish(self, sender: MemoryMesh, topic: str, envelope: bytes) -> None:
        """Send an envelope to all that listen."""
        for each in list(self._ends):
            if each is not sender and topic in each.subscribed and self._rng.random() >= self.loss:
                self.deliver(sender, each, each.on_message, topic, envelope, sender.peer)

    def spread(self, sender: MemoryMesh, kind: str, raw: bytes) -> None:
        """Tell all others of an order of the owner's, as those who meet do until all have it."""
        self._orders[kind] = raw
        for each in list(self._ends):
            if each is not sender:
                self.deliver(sender, each, each.hear[kind], raw)

    def deliver(
        self, sender: MemoryMesh, to: MemoryMesh, hear: Callable[..., None], *values: object
    ) -> None:
        """Call `hear` at a member after a while, unless no way leads there then."""
        loop = asyncio.get_running_loop()
        delay_s = self._rng.uniform(0.001, self.most_delay_s)
        loop.call_later(delay_s, self._arrive, sender, to, hear, values, context=to.context)

    def _arrive(
        self,
        sender: MemoryMesh,
        to: MemoryMesh,
        hear: Callable[..., None],
        values: tuple[object, ...],
    ) -> None:
        if to in self._ends and not self._network.is_cut(
            sender.machine.address, to.machine.address
        ):
            hear(*values)


class MemoryMesh(Mesh):
    """One member's end, made as a `MeshClient` is."""

    def __init__(
        self,
        bus: MeshBus,
        membership: Membership,
        *,
        subscribe: Sequence[str],
        on_message: Callable[[str, bytes, PeerId], None],
        on_ready: Callable[[PeerId, tuple[str, ...]], None],
        on_subscribed: Callable[[str, tuple[PeerId, ...]], None],
        on_revocations: Callable[[bytes], None],
        on_drains: Callable[[bytes], None],
        **_: Any,  # noqa: ANN401 - what a sidecar needs beside
    ) -> None:
        self._bus = bus
        self.peer: PeerId = membership.identity.peer_id
        self.machine: Machine = MACHINE.get()
        self.context: Context = copy_context()
        self.subscribed = tuple(subscribe)
        self.on_message = on_message
        self._on_ready = on_ready
        self.on_subscribed = on_subscribed
        self.hear = {"revocations": on_revocations, "drains": on_drains}
        self._is_up = False

    @property
    @override
    def pid(self) -> int | None:
        return 1 if self._is_up else None

    @property
    @override
    def addrs(self) -> tuple[str, ...]:
        return (f"/ip4/{self.machine.address}/tcp/4001/p2p/{self.peer}",) if self._is_up else ()

    @override
    async def run(self) -> None:
        self._is_up = True
        self._bus.joined(self)
        self._on_ready(self.peer, self.addrs)
        try:
            await asyncio.Event().wait()
        finally:
            self._is_up = False
            self._bus.left(self)

    @override
    def publish(self, topic: str, envelope: bytes) -> bool:
        if self._is_up:
            self._bus.publish(self, topic, envelope)
        return self._is_up

    @override
    def update_revocations(self, encoded: bytes) -> None:
        self._bus.spread(self, "revocations", encoded)

    @override
    def update_drains(self, encoded: bytes) -> None:
        self._bus.spread(self, "drains", encoded)

    @override
    def renew(self, membership: Membership, bootstrap: Sequence[str] = ()) -> None:
        """Do nothing: peers in memory know one another."""
