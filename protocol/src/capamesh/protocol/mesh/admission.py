# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false
# libp2p is partly typed.
"""Lets members in and keeps everybody else out: the membership handshake on each connection. Does IO, on trio."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import trio
from libp2p.abc import INotifee
from libp2p.custom_types import TProtocol
from libp2p.rcmgr import Direction
from typing_extensions import override

from capamesh.protocol.errors import NotMember, ProtocolViolation
from capamesh.protocol.ids import PeerId
from capamesh.protocol.mesh.handshake import (
    NONCE_BYTES,
    PROTOCOL,
    TIME_LIMIT_S,
    Handshake,
    Side,
    refusal,
    stream_decoder,
)
from capamesh.protocol.mesh.hardening import contain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import IHost, INetConn, INetStream, INetwork
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr  # type: ignore[import-untyped]  # it ships no types

    from capamesh.protocol.identity import Identity
    from capamesh.protocol.mesh.hardening import Warn
    from capamesh.protocol.network import Member, NetworkTrust, Role

REFUSED_FOR_S: Final = 60.0
"""A peer that failed is refused for this long (guess: a token may be renewed within minutes)."""

REFUSED_BY_THEM_FOR_S: Final = 5.0
"""A peer that refused this member is left alone for this long (guess: it may have a wrong clock, or not know a renewal yet,
and asking costs little)."""

CLOCK_SET_S: Final = 60.0
"""A clock that goes this far ahead or back of a steady one was set (guess)."""

RECHECK_EVERY_S: Final = 2.0
"""Members are checked for expiry this often (guess: a look at a member takes some microseconds)."""

_REFUSAL_LIMIT_S: Final = 0.5
"""A refused peer has this long to hang up (guess: a round trip; it does so as soon as it has read why)."""

_READ_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Admitted:
    member: Member
    chain: tuple[bytes, ...]


class Admission(INotifee):
    """Knows which connected peers are members.

    `on_change` is called when that changes, `on_revocations(encoded)` with a list that a member sent as
    newer and that is not verified, `on_drains(encoded)` with such a drain order.
    """

    def __init__(
        self,
        host: IHost,
        nursery: trio.Nursery,
        *,
        identity: Identity,
        chain: tuple[bytes, ...],
        trust: NetworkTrust,
        on_change: Callable[[], None],
        on_revocations: Callable[[bytes], None],
        on_drains: Callable[[bytes], object],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        warn: Warn,
    ) -> None:
        self._host = host
        self._network = host.get_network()
        self._nursery = nursery
        self._identity = identity
        self._chain = chain
        self._trust = trust
        self._on_change = on_change
        self._on_revocations = on_revocations
        self._on_drains = on_drains
        self._now = now
        self._last_now = (now(), trio.current_time())
        self._warn = warn
        self._admitted: dict[ID, _Admitted] = {}
        self._waiting: dict[ID, trio.Event] = {}
        self._refused_until_s: dict[ID, float] = {}
        host.set_stream_handler(TProtocol(PROTOCOL), self._accept)
        self._network.register_notifee(self)

    def members(self, role: Role) -> list[str]:
        """Return the peer ids of the connected members of a role."""
        return [one.member.peer_id for one in self._admitted.values() if one.member.role is role]

    def peers(self) -> set[ID]:
        """Return the connected members."""
        return set(self._admitted)

    def is_refused(self, peer: ID) -> bool:
        """Return whether the peer failed to prove membership lately."""
        return self._refused_until_s.get(peer, 0.0) > trio.current_time()

    async def wait_member(self, peer: ID) -> bool:
        """Return whether the peer is a member, waiting for its proof as long as it may take."""
        if peer not in self._admitted:
            with trio.move_on_after(TIME_LIMIT_S):
                await self._event(peer).wait()
        return peer in self._admitted

    async def watch_expiry(self) -> None:
        """Check members again and again until cancelled: memberships end."""
        while True:
            await trio.sleep(RECHECK_EVERY_S)
            self.recheck()

    def recheck(self) -> None:
        """Disconnect whoever is a member no more, by the time or by the revocation list."""
        now = self._now()
        self._note_setting(now)
        for peer, one in list(self._admitted.items()):
            try:
                self._trust.verify(one.chain, now)
            except NotMember as exc:
                self._start(self._expel, peer, exc.message)
        now_s = trio.current_time()
        self._refused_until_s = {
            peer: until_s for peer, until_s in self._refused_until_s.items() if until_s > now_s
        }

    def _note_setting(self, now: datetime) -> None:
        """Forget who was refused when the clock is set: the time may have been why."""
        then, then_s = self._last_now
        now_s = trio.current_time()
        self._last_now = (now, now_s)
        if abs((now - then).total_seconds() - (now_s - then_s)) > CLOCK_SET_S:
            self._refused_until_s.clear()

    @override
    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """Start the clock on a new connection; libp2p waits for this, so it must not."""
        self._start(self._admit, conn)

    @override
    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Forget a peer whose last connection ended."""
        peer = conn.muxed_conn.peer_id
        if not self._network.get_connections(peer):
            self._waiting.pop(peer, None)
            if self._admitted.pop(peer, None) is not None:
                self._on_change()

    @override
    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing to do."""

    @override
    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Nothing to do."""

    @override
    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing to do."""

    @override
    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Nothing to do."""

    def _start(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        self._nursery.start_soon(contain(task, self._warn), *arguments)

    def _event(self, peer: ID) -> trio.Event:
        return self._waiting.setdefault(peer, trio.Event())

    async def _admit(self, conn: INetConn) -> None:
        peer = conn.muxed_conn.peer_id
        with trio.move_on_after(TIME_LIMIT_S) as limit:
            if getattr(conn, "direction", None) is Direction.OUTBOUND:
                await self._open(peer)
            await self._event(peer).wait()
        if limit.cancelled_caught and self._network.get_connections(peer):
            await self._expel(peer, f"no proof of membership within {TIME_LIMIT_S:g} s")

    async def _open(self, peer: ID) -> None:
        try:
            stream = await self._host.new_stream(peer, [TProtocol(PROTOCOL)])
        except Exception as exc:  # noqa: BLE001  # libp2p documents no error classes
            await self._expel(peer, f"it takes no membership stream: {exc!r}"[:200])
            return
        await self._exchange(stream, Side.OPENER)

    async def _accept(self, stream: INetStream) -> None:
        with trio.move_on_after(TIME_LIMIT_S):
            await self._exchange(stream, Side.ACCEPTOR)

    async def _exchange(self, stream: INetStream, side: Side) -> None:
        peer = stream.muxed_conn.peer_id
        handshake = Handshake(
            side,
            identity=self._identity,
            chain=self._chain,
            trust=self._trust,
            remote=PeerId(peer.to_base58()),
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        try:
            await self._run(stream, handshake)
        except (NotMember, ProtocolViolation) as exc:
            if not handshake.was_refused:
                await _tell_refusal(stream, refusal(exc.message, handshake.revealed))
            elif handshake.revocations:
                self._on_revocations(handshake.revocations)
            await self._expel(
                peer,
                exc.message,
                for_s=REFUSED_BY_THEM_FOR_S if handshake.was_refused else REFUSED_FOR_S,
            )
            return
        except Exception as exc:  # noqa: BLE001  # libp2p documents no error classes; the stream is over
            await self._expel(peer, f"the membership stream broke: {exc!r}"[:200])
            return
        await stream.close()

    async def _run(self, stream: INetStream, handshake: Handshake) -> None:
        peer = stream.muxed_conn.peer_id
        decoder = stream_decoder()
        await stream.write(handshake.first())
        while handshake.member is None:
            data = await stream.read(_READ_BYTES)
            if not data:
                raise NotMember(f"it closed the membership stream: {handshake!r}")
            for message in decoder.feed(data):
                answer = handshake.receive(message, self._now())
                if answer:
                    await stream.write(answer)
        if handshake.revocations:
            self._on_revocations(handshake.revocations)
            # The list may name the very peer that sent it.
            self._trust.verify(handshake.remote_chain, self._now())
        if handshake.drains:
            self._on_drains(handshake.drains)
        if not self._network.get_connections(peer):
            return
        self._refused_until_s.pop(peer, None)
        is_new = peer not in self._admitted
        self._admitted[peer] = _Admitted(handshake.member, handshake.remote_chain)
        self._event(peer).set()
        if is_new:
            self._on_change()

    async def _expel(self, peer: ID, why: str, *, for_s: float = REFUSED_FOR_S) -> None:
        self._warn("expelled", f"{peer}: {why}")
        self._refused_until_s[peer] = trio.current_time() + for_s
        if self._admitted.pop(peer, None) is not None:
            self._on_change()
        # Whoever waits for this peer gets its answer from `_admitted`.
        event = self._waiting.pop(peer, None)
        if event is not None:
            event.set()
        # Not `close_peer`: it also forgets a connection that the peer made while the old ones close, and
        # that one would then stand for ever.
        for conn in self._network.get_connections(peer):
            self._start(conn.close)


async def _tell_refusal(stream: INetStream, frame: bytes) -> None:
    """Send why, and leave the other side the time to read it: a close destroys what it has not read."""
    with trio.move_on_after(_REFUSAL_LIMIT_S), suppress(Exception):
        await stream.write(frame)
        while await stream.read(_READ_BYTES):
            pass
