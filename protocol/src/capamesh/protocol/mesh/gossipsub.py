# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false
# pyright: reportIncompatibleVariableOverride=false
# libp2p is partly typed.
"""Chooses which members a message goes to: GossipSub 1.1 with limits and scores. Does IO, on trio.

Version 1.1 alone is offered: 1.2 tells neighbours what not to send, which costs 3 ms of CPU for each
message (measured: 7.5 ms against 4.5 ms) where messages are small.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.score import PeerScorer, ScoreParams, TopicScoreParams
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Collection


MAX_MESSAGES_PER_PEER_S: Final = 2000
"""The most messages of one peer in a second (guess: a router forwards the adverts of 20,000 nodes, one each 10 s; libp2p's
own 10 loses half of 20)."""

MAX_IDS: Final = 5000
"""The most message ids in one IHAVE or IWANT: gossipsub 1.1's own MaxIHaveLength."""

MAX_IWANT_BYTES: Final = 4 * 2**20
"""The most bytes that one request for missed messages brings (guess: the rest comes with the next advert)."""

MAX_CONTROL_ITEMS: Final = 16
"""The most control items of one kind in one RPC (guess: there are two topics)."""

MAX_BACKOFF_S: Final = 3600
"""The longest backoff that a peer may ask for (guess: it is asked again after an hour)."""

SCORES: Final = ScoreParams(
    # libp2p subtracts the last two: a negative weight, as the specification has it, would be a reward.
    p1_time_in_mesh=TopicScoreParams(weight=0.1, cap=10, decay=1.0),
    p2_first_message_deliveries=TopicScoreParams(weight=0.5, cap=40, decay=0.98),
    p4_invalid_messages=TopicScoreParams(weight=20, cap=50, decay=0.98),
    p5_behavior_penalty_weight=1.0,
    p5_behavior_penalty_decay=0.98,
    p5_behavior_penalty_threshold=20.0,
    # Many honest members may share one address.
    p7_ip_colocation_weight=0.0,
    gossip_threshold=-50.0,
    publish_threshold=-100.0,
    graylist_threshold=-200.0,
)
"""The weights of a peer's score (guesses): six bad messages in a row cost a peer its voice for about half a minute, and a cap
(0 by default, which makes a term vanish) bounds the sentence: 1,000 points fall below 100 in two minutes."""

_BAD_RPC_PENALTY: Final = 30.0
"""The penalty for bytes that are no RPC (guess: nobody sends them by accident; four of them silence a peer)."""


class MeshGossipSub(GossipSub):
    """GossipSub for a few known topics, in which a remote peer cannot spend our memory."""

    pubsub: Pubsub | None
    scorer: PeerScorer

    def __init__(self, topics: Collection[str]) -> None:
        super().__init__(
            protocols=[PROTOCOL_ID_V11],
            # Measured: 1.8 ms of CPU a message at degree 3, 2.8 ms at 6; a mesh of routers is small.
            degree=4,
            degree_low=3,
            degree_high=8,
            heartbeat_interval=1,
            score_params=SCORES,
            # It counts after the signatures are checked; `allows` counts before.
            spam_protection_enabled=False,
            # Both take many peers on one address for an attack.
            adaptive_gossip_enabled=False,
            eclipse_protection_enabled=False,
        )
        self._topics = frozenset(topics)
        self._recent: defaultdict[ID, deque[float]] = defaultdict(deque)

    def allows(self, peer: ID, topic: str) -> bool:
        """Return whether a message from `peer` is worth checking: its score and its rate are within limits."""
        now_s = time.monotonic()
        recent = self._recent[peer]
        while recent and recent[0] < now_s - 1.0:
            recent.popleft()
        if len(recent) >= MAX_MESSAGES_PER_PEER_S:
            return False
        recent.append(now_s)
        return self.scorer.allow_publish(peer, [topic])

    def blame(self, peer: ID, topic: str) -> None:
        """Count a message that no honest peer forwards."""
        self.scorer.on_invalid_message(peer, topic)

    def praise(self, peer: ID, topic: str) -> None:
        """Count a good message that came from `peer` first."""
        self.scorer.on_first_delivery(peer, topic)

    def penalize(self, peer: ID) -> None:
        """Count bytes that are no RPC."""
        self.scorer.penalize_behavior(peer, _BAD_RPC_PENALTY)

    @override
    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Send a checked message on.

        libp2p's own also keeps a copy for every connected peer that does not listen, which at a router
        is every node.
        """
        assert self.pubsub is not None  # noqa: S101  # `attach` sets it
        self.mcache.put(pubsub_msg)
        rpc = rpc_pb2.RPC(publish=[pubsub_msg])
        topics = list(pubsub_msg.topicIDs)
        for peer in self._get_peers_to_send(topics, msg_forwarder, ID(pubsub_msg.from_id)):
            if peer in self.pubsub.peers and self.scorer.allow_publish(peer, topics):
                self.send_rpc(peer, rpc)
        for topic in topics:
            self.time_since_last_publish[topic] = int(time.time())

    @override
    def remove_peer(self, peer_id: ID) -> None:
        """Forget a peer that is gone, but not what it did: a reconnect must not clear its name."""
        penalty = self.scorer.behavior_penalty.get(peer_id, 0.0)
        invalid = self.scorer.invalid_messages.get(peer_id)
        super().remove_peer(peer_id)
        self._recent.pop(peer_id, None)
        if penalty > 1.0:
            self.scorer.behavior_penalty[peer_id] = penalty
        if invalid and max(invalid.values()) > 0.1:
            self.scorer.invalid_messages[peer_id] = invalid

    @override
    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Obey a peer's control messages, within limits and for known topics."""
        control = rpc.control
        for ihave in control.ihave[:MAX_CONTROL_ITEMS]:
            if ihave.topicID in self._topics:
                del ihave.messageIDs[MAX_IDS:]
                await self.handle_ihave(ihave, sender_peer_id)
        for iwant in control.iwant[:MAX_CONTROL_ITEMS]:
            await self.handle_iwant(iwant, sender_peer_id)
        for graft in control.graft[:MAX_CONTROL_ITEMS]:
            if graft.topicID in self._topics:
                await self.handle_graft(graft, sender_peer_id)
        for prune in control.prune[:MAX_CONTROL_ITEMS]:
            if prune.topicID in self._topics:
                prune.backoff = min(prune.backoff, MAX_BACKOFF_S)
                # Whom we dial is our own decision, not a peer's.
                prune.ClearField("peers")
                await self.handle_prune(prune, sender_peer_id)

    @override
    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """Send each wanted message once.

        libp2p's own sends one as often as its id is repeated, which makes gigabytes of one RPC.
        """
        if not self._check_iwant_rate_limit(sender_peer_id):
            return
        room_bytes = MAX_IWANT_BYTES
        for message_id in dict.fromkeys(iwant_msg.messageIDs[:MAX_IDS]):
            message = self.mcache.get(message_id)
            if message is None:
                continue
            room_bytes -= message.ByteSize()
            if room_bytes < 0:
                return
            self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=[message]))
