# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
# libp2p is partly typed.
"""The mesh process: joins what its owner tells it, until the owner stops or dies. Does IO, on trio."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

from capamesh.protocol.channel.trio_channel import TrioChannel
from capamesh.protocol.descriptors import descriptor_limit
from capamesh.protocol.errors import CapameshError, ProtocolViolation
from capamesh.protocol.identity import Identity
from capamesh.protocol.ids import PeerId
from capamesh.protocol.mesh.admission import Admission
from capamesh.protocol.mesh.dialer import Dialler
from capamesh.protocol.mesh.gossip import PayloadKind, adverts_topic, demand_topic, wrap
from capamesh.protocol.mesh.gossipsub import MeshGossipSub
from capamesh.protocol.mesh.hardening import contain_tasks
from capamesh.protocol.mesh.host import make_host
from capamesh.protocol.mesh.left_out import LOCAL_DISCOVERY, read_in
from capamesh.protocol.mesh.messages import (
    Dial,
    Drains,
    Heard,
    Members,
    Publish,
    Ready,
    Revocations,
    Start,
    Stop,
    Subscribed,
    ToOwner,
    Warned,
    from_wire,
    to_wire,
)
from capamesh.protocol.mesh.port import MeshPort, limits_for_mesh
from capamesh.protocol.mesh.pubsub import MemberPubsub
from capamesh.protocol.mesh.validator import ValidationResult, Validator
from capamesh.protocol.network import NetworkTrust, RevocationList, Role
from capamesh.protocol.network_clock import NetworkClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from capamesh.protocol.channel.framing import Message

_STOP_LIMIT_S: Final = 3.0
"""The longest stop (guess: less than the owner's grace time; the end of the process closes the rest)."""

_GOODBYE_S: Final = 0.2
"""The time in which messages that were published just before the stop leave (guess)."""

WARN_EVERY_S: Final = 1.0
"""A warning is repeated no more often than this (guess: soon enough for a person, seldom enough for a log)."""

MAX_DETAIL_CHARS: Final = 500
"""The longest detail of a warning (guess: an address, a peer id and a reason)."""


class Sidecar:
    """One member of the mesh, from its `Start` to its end."""

    def __init__(self, channel: TrioChannel, start: Start) -> None:
        self._channel = channel
        self._start = start
        self._identity = Identity.from_private_bytes(start.private_key)
        self._trust = NetworkTrust(start.ca_der)
        if start.revocations:
            self._trust.update(RevocationList.decode(start.revocations, start.ca_der))
        network_id = self._trust.network_id
        self._demand = demand_topic(network_id)
        self._topics = (adverts_topic(network_id), self._demand)
        self._clock = NetworkClock(_wall_ms(), trio.current_time())
        self._judge = Validator(start.ca_der, self._trust, self._clock)
        self._warnings: dict[str, tuple[int, str]] = {}
        if start.drains:
            self._take_drains(start.drains)
        contain_tasks(self._warn)
        self._port = MeshPort(limits_for_mesh(descriptor_limit()))
        self._host = make_host(start.private_key, self._warn, self._port)

    async def run(self, messages: AsyncIterator[Message]) -> None:
        """Serve until the owner says stop or the channel ends."""
        listen = [Multiaddr(addr) for addr in self._start.listen]
        router = MeshGossipSub(self._topics)
        async with self._host.run(listen), trio.open_nursery() as nursery:

            def take_revocations(encoded: bytes) -> None:
                self._take_revocations(encoded, admission)

            admission = Admission(
                self._host,
                nursery,
                identity=self._identity,
                chain=tuple(self._start.chain),
                trust=self._trust,
                on_change=lambda: self._members_changed(admission),
                on_revocations=take_revocations,
                on_drains=self._take_drains,
                now=self._membership_time,
                warn=self._warn,
            )

            def deliver(
                topic: str, judgement: ValidationResult, publisher: PeerId, via: PeerId
            ) -> None:
                if judgement.kind is PayloadKind.REVOCATIONS:
                    take_revocations(judgement.body)
                elif judgement.kind is PayloadKind.DRAINS:
                    self._take_drains(judgement.body)
                else:
                    self._tell(Heard(topic, judgement.body, publisher, via))

            pubsub = MemberPubsub(
                self._host,
                router,
                topics=self._topics,
                wait_member=admission.wait_member,
                judge=lambda payload, who: self._judge.judge(
                    payload, who, _wall_ms(), trio.current_time()
                ),
                deliver=deliver,
                on_reachable=lambda topic, peers: self._tell(Subscribed(topic, list(peers))),
                warn=self._warn,
            )
            dialler = Dialler(self._host, nursery, is_refused=admission.is_refused, warn=self._warn)
            async with background_trio_service(pubsub), background_trio_service(router):
                await pubsub.wait_until_ready()
                for topic in self._start.subscribe:
                    await pubsub.subscribe(topic)
                nursery.start_soon(self._tell_warnings)
                nursery.start_soon(admission.watch_expiry)
                addrs = [str(addr) for addr in self._host.get_addrs()]
                self._tell(Ready(self._identity.peer_id, addrs))
                dialler.add(self._start.bootstrap)
                if self._start.use_mdns:
                    nursery.start_soon(self._find_on_lan, addrs, dialler)
                await self._obey(messages, pubsub, admission, dialler)
                await trio.sleep(_GOODBYE_S)
                nursery.cancel_scope.cancel()

    def _members_changed(self, admission: Admission) -> None:
        self._port.members_are(admission.peers())
        self._tell(Members(admission.members(Role.NODE), admission.members(Role.ROUTER)))

    def _membership_time(self) -> datetime:
        """Return the time of day by which memberships are judged."""
        now_ms = self._clock.membership_ms(_wall_ms(), trio.current_time())
        return datetime.fromtimestamp(now_ms / 1000, UTC)

    async def _obey(
        self,
        messages: AsyncIterator[Message],
        pubsub: MemberPubsub,
        admission: Admission,
        dialler: Dialler,
    ) -> None:
        async for raw in messages:
            match from_wire(raw):
                case Publish(topic, data) if topic in self._topics:
                    await pubsub.announce(topic, wrap(PayloadKind.ENVELOPE, data))
                case Publish(topic):
                    self._warn("bad_topic", f"{topic!r}: the topics are {self._topics}")
                case Revocations(data):
                    if self._take_revocations(data, admission):
                        await pubsub.announce(self._demand, wrap(PayloadKind.REVOCATIONS, data))
                case Drains(data):
                    if self._take_drains(data):
                        await pubsub.announce(self._demand, wrap(PayloadKind.DRAINS, data))
                case Dial(addrs):
                    dialler.add(addrs)
                case Stop():
                    return
                case other:
                    raise ProtocolViolation(f"the owner sent {other.TYPE!r}, which it cannot now")

    def _take_revocations(self, encoded: bytes, admission: Admission) -> bool:
        """Enforce a list that is newer and the owner's; tell our owner, who keeps it. Return whether it is."""
        if encoded == self._trust.encoded_revocations:  # to parse a long one takes the loop's time
            return False
        try:
            is_newer = self._trust.update(RevocationList.decode(encoded, self._start.ca_der))
        except CapameshError as exc:
            self._warn("bad_revocations", exc.message)
            return False
        if is_newer:
            self._tell(Revocations(encoded))
            admission.recheck()
        return is_newer

    def _take_drains(self, encoded: bytes) -> bool:
        """Remember a drain order that is newer and the owner's, and tell our owner. Return whether it is."""
        try:
            is_newer = self._trust.take_drains(encoded)
        except CapameshError as exc:
            self._warn("bad_drains", exc.message)
            return False
        if is_newer:
            self._tell(Drains(encoded))
        return is_newer

    async def _find_on_lan(self, addrs: list[str], dialler: Dialler) -> None:
        read_in(LOCAL_DISCOVERY)
        from capamesh.protocol.mesh.lan import find_on_lan  # noqa: PLC0415 - few look there, and save its memory

        await find_on_lan(
            self._trust.network_id,
            self._identity.peer_id,
            addrs,
            found=dialler.add,
            warn=self._warn,
        )

    def _tell(self, message: ToOwner) -> None:
        if not self._channel.send(to_wire(message)):
            self._warn("owner_is_slow", message.TYPE)

    def _warn(self, event: str, detail: object) -> None:
        """Note what the owner should know; a flood from outside becomes one message a second."""
        count, _ = self._warnings.get(event, (0, ""))
        self._warnings[event] = (count + 1, str(detail)[:MAX_DETAIL_CHARS])

    async def _tell_warnings(self) -> None:
        while True:
            await trio.sleep(WARN_EVERY_S)
            warnings, self._warnings = self._warnings, {}
            for event, (count, detail) in warnings.items():
                self._tell(Warned(event, detail, count))


def _wall_ms() -> int:
    return time.time_ns() // 10**6


async def run_sidecar(channel_fd: int) -> None:
    """Run the sidecar of the owner at the other end of an inherited descriptor, until it stops or dies.

    Raises:
        CapameshError: the owner's messages or its membership cannot be used; the process ends with it.
    """
    channel = TrioChannel.inherit(channel_fd)
    messages = channel.messages()
    first = from_wire(await anext(messages))
    if not isinstance(first, Start):
        raise ProtocolViolation(f"the first message must be 'start', not {first.TYPE!r}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        await Sidecar(channel, first).run(messages)
        nursery.cancel_scope.cancel()
