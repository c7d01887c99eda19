# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleVariableOverride=false
# libp2p is partly typed.
"""Gossip among members only: reads, checks, delivers and publishes messages. Does IO, on trio.

It replaces what libp2p's `Pubsub` does with bytes from a peer: no byte of a stranger is read and none sent
to it, a stream is read in large gulps (a read per byte costs a frame and a system call each), everything
has a limit, and every verdict of the judge has its own effect, where libp2p knows only good and bad.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from libp2p.host.exceptions import StreamFailure
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_varint_prefixed
from typing_extensions import override

from capamesh.protocol.identity import verify_signature
from capamesh.protocol.ids import PeerId
from capamesh.protocol.mesh.gossip import MAX_PAYLOAD_BYTES
from capamesh.protocol.mesh.validator import ValidationResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from libp2p.abc import IHost, INetStream

    from capamesh.protocol.mesh.gossipsub import MeshGossipSub
    from capamesh.protocol.mesh.hardening import Warn

MAX_RPC_BYTES: Final = MAX_PAYLOAD_BYTES + 64 * 1024
"""The largest payload and what stands around it."""

MAX_MESSAGES_PER_RPC: Final = 4096
"""The most messages in one RPC (guess: above what one heartbeat of a large fleet's history holds)."""

MAX_WAITING_RPCS: Final = 1024
"""The most RPCs that wait (guess: libp2p's own 32 lost adverts when a few hundred came at once)."""

_READ_BYTES: Final = 64 * 1024
"""The bytes of one read: 4.5 ms of CPU a message fell to 2.8 ms against reading byte by byte (measured)."""

_MAX_VARINT_BYTES: Final = 4
"""A length of more than 28 bits is over `MAX_RPC_BYTES` whatever follows."""

_ED25519_ID_PREFIX: Final = b"\x00\x24\x08\x01\x12\x20"
"""An identity multihash of 36 bytes: a protobuf of key type 1 and 32 bytes of key (libp2p peer id spec)."""


class MemberPubsub(Pubsub):
    """Speaks pubsub with members.

    `wait_member(peer)` returns whether the peer proves membership in time. `judge(payload, publisher)` is
    asked for every new message with a good signature. `deliver(topic, judgement, publisher, via)` gets
    what was accepted. `on_reachable(topic, peers)` is called when a topic gets its first listener.
    """

    router: MeshGossipSub

    def __init__(
        self,
        host: IHost,
        router: MeshGossipSub,
        *,
        topics: Collection[str],
        wait_member: Callable[[ID], Awaitable[bool]],
        judge: Callable[[bytes, PeerId], ValidationResult],
        deliver: Callable[[str, ValidationResult, PeerId, PeerId], None],
        on_reachable: Callable[[str, list[PeerId]], None],
        warn: Warn,
    ) -> None:
        super().__init__(
            host,
            router,
            strict_signing=True,
            allowed_topics=set(topics),
            max_inbound_rpc_size=MAX_RPC_BYTES,
        )
        # Seconds, libp2p's own choice, repeat after a restart, and the messages are dropped as known.
        self.counter = time.time_ns()
        self._topics = frozenset(topics)
        self._wait_member = wait_member
        self._judge = judge
        self._deliver = deliver
        self._on_reachable = on_reachable
        self._warn = warn
        self._reachable: set[str] = set()
        self._inbound: dict[ID, INetStream] = {}

    async def announce(self, topic: str, payload: bytes) -> None:
        """Sign and send our own payload."""
        message = rpc_pb2.Message(
            data=payload, topicIDs=[topic], from_id=self.my_id.to_bytes(), seqno=self._next_seqno()
        )
        assert self.sign_key is not None  # noqa: S101  # strict signing sets it
        message.signature = self.sign_key.sign(_signed_bytes(message))
        message.key = self.host.get_public_key().serialize()
        self._mark_msg_seen(message)
        await self.router.publish(self.my_id, message)

    @override
    async def stream_handler(self, stream: INetStream) -> None:
        """Read a peer's stream, once the peer is a member."""
        peer = stream.muxed_conn.peer_id
        if await self._wait_member(peer):
            self._inbound[peer] = stream
            await self.continuously_read_stream(stream)
            # A peer that has opened another stream meanwhile has told its subscriptions there.
            if self._inbound.get(peer) is stream:
                del self._inbound[peer]
                self._forget_all_subscriptions(peer)
                self._note_reachable()
        await stream.reset()

    @override
    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Read RPCs until the stream ends or breaks a rule."""
        peer = stream.muxed_conn.peer_id
        buffer = bytearray()
        try:
            while True:
                raw = await _read_frame(stream, buffer)
                rpc = rpc_pb2.RPC()
                rpc.ParseFromString(raw)
                await self._handle_rpc(rpc, peer)
        except _StreamOver:
            pass
        except Exception as exc:  # noqa: BLE001  # whatever a peer sends costs it the stream, not us the process
            self.router.penalize(peer)
            self._warn("bad_rpc", f"{peer}: {exc!r}"[:200])

    @override
    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Check one message from `msg_forwarder`; deliver and forward it when it is good and new."""
        topic = msg.topicIDs[0] if len(msg.topicIDs) == 1 else ""
        if topic not in self._topics or topic not in self.topic_ids:
            return
        if self._is_msg_seen(msg) or not self.router.allows(msg_forwarder, topic):
            return
        publisher = _publisher(msg)
        if publisher is None:
            self.router.blame(msg_forwarder, topic)
            return
        if publisher == self.my_id.to_base58():
            # Ours, come back to us after a restart.
            self._mark_msg_seen(msg)
            return
        judgement = self._judge(msg.data, publisher)
        self._mark_msg_seen(msg)
        if judgement.verdict is Verdict.REJECT:
            self.router.blame(msg_forwarder, topic)
        if judgement.verdict is not Verdict.ACCEPT:
            self._warn("dropped_" + judgement.reason, f"{publisher} via {msg_forwarder}")
            return
        self.router.praise(msg_forwarder, topic)
        self._deliver(topic, judgement, publisher, PeerId(msg_forwarder.to_base58()))
        await self.router.publish(msg_forwarder, msg)

    @override
    def handle_subscription(self, origin_id: ID, sub_message: rpc_pb2.RPC.SubOpts) -> None:
        """Note what a peer listens to."""
        super().handle_subscription(origin_id, sub_message)
        self._note_reachable()

    async def _handle_rpc(self, rpc: rpc_pb2.RPC, peer: ID) -> None:
        if len(rpc.publish) > MAX_MESSAGES_PER_RPC:
            raise ValueError(f"{len(rpc.publish)} messages in one RPC, {MAX_MESSAGES_PER_RPC} fit")
        if len(rpc.subscriptions) > self.max_subscriptions_per_rpc:
            raise ValueError(f"{len(rpc.subscriptions)} subscriptions in one RPC")
        for subscription in rpc.subscriptions:
            self.handle_subscription(peer, subscription)
        for message in rpc.publish:
            await self.push_msg(peer, message)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer)

    @override
    async def _handle_new_peer(self, peer_id: ID) -> None:
        if peer_id in self.peers or not await self._wait_member(peer_id):
            return
        try:
            stream = await self.host.new_stream(peer_id, self.protocols)
        except StreamFailure as exc:
            # The one error after which libp2p tries again.
            raise SwarmException(f"{peer_id} takes no gossip stream: {exc}") from exc
        if peer_id in self.peers:  # another connection was faster
            await stream.reset()
            return
        hello = rpc_pb2.RPC(
            subscriptions=[
                rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in self.topic_ids
            ]
        )
        await stream.write(encode_varint_prefixed(hello.SerializeToString()))
        self.router.add_peer(peer_id, stream.get_protocol())
        self.peers[peer_id] = stream
        queue = RpcQueue(MAX_WAITING_RPCS, MAX_RPC_BYTES)
        self.peer_queues[peer_id] = queue
        self.manager.run_task(self.handle_sending_messages, peer_id, stream, queue)
        await self._send_recent_messages_to_new_peer(peer_id)
        self._note_reachable()

    @override
    def _handle_dead_peer(self, peer_id: ID) -> None:
        stream = self.peers.get(peer_id)
        try:
            super()._handle_dead_peer(peer_id)
        except Exception as exc:  # noqa: BLE001  # it runs in a loop that cannot be started again
            self._warn("dead_peer_failed", f"{peer_id}: {exc!r}")
        if stream is not None and self.manager.is_running:
            self.manager.run_task(stream.reset)
        self._note_reachable()

    def _note_reachable(self) -> None:
        for topic in self._topics:
            listeners = [peer for peer in self.peer_topics.get(topic, ()) if peer in self.peers]
            if not listeners:
                self._reachable.discard(topic)
            elif topic not in self._reachable:
                self._reachable.add(topic)
                self._on_reachable(topic, [PeerId(peer.to_base58()) for peer in listeners])


class _StreamOver(Exception):  # an end, not an error
    """The peer closed or reset the stream between two RPCs."""


async def _read_frame(stream: INetStream, buffer: bytearray) -> bytes:
    """Return the next length-prefixed frame; what was read beyond it stays in `buffer`."""
    while True:
        prefix = _length_prefix(buffer)
        if prefix is not None:
            start, length = prefix
            if len(buffer) >= start + length:
                frame = bytes(buffer[start : start + length])
                del buffer[: start + length]
                return frame
        try:
            data = await stream.read(_READ_BYTES)
        except Exception as exc:
            raise _StreamOver from exc
        if not data:
            raise _StreamOver
        buffer += data


def _length_prefix(buffer: bytearray) -> tuple[int, int] | None:
    """Return where the frame starts and how long it is; None when the prefix is not complete."""
    length = 0
    for index, byte in enumerate(buffer[:_MAX_VARINT_BYTES]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if length > MAX_RPC_BYTES:
                break
            return index + 1, length
    else:
        if len(buffer) < _MAX_VARINT_BYTES:
            return None
    raise ValueError(
        f"an RPC of {length} bytes or more was announced, the limit is {MAX_RPC_BYTES}"
    )


def _signed_bytes(message: rpc_pb2.Message) -> bytes:
    bare = rpc_pb2.Message(
        data=message.data, topicIDs=message.topicIDs, from_id=message.from_id, seqno=message.seqno
    )
    return PUBSUB_SIGNING_PREFIX.encode() + bare.SerializeToString()


def _publisher(message: rpc_pb2.Message) -> PeerId | None:
    """Return who signed the message, or None when its signature or its key is not its publisher's."""
    if (
        len(message.seqno) != 8
        or message.from_id[:6] != _ED25519_ID_PREFIX
        or len(message.from_id) != 38
    ):
        return None
    if message.key and message.key != message.from_id[2:]:
        return None
    publisher = PeerId(ID(message.from_id).to_base58())
    if not verify_signature(publisher, _signed_bytes(message), message.signature):
        return None
    return publisher
