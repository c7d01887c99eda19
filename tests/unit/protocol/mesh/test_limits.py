"""What bounds a remote peer in the libp2p adapter, without a connection."""

from __future__ import annotations

from collections import defaultdict

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.mesh.dialer import parse_target
from capamesh.protocol.mesh.gossipsub import MAX_IWANT_BYTES, MAX_MESSAGES_PER_PEER_S, MeshGossipSub
from capamesh.protocol.mesh.lan import announced, service_type
from capamesh.protocol.mesh.pubsub import MAX_RPC_BYTES, _length_prefix

TOPIC = "capamesh/cm-1/adverts"
PEER = ID(b"peer")
PEER_TEXT = "12D3KooWRBhwfeP2Y4TCx1SM6s9rUoHhR5STiGwxBhgFRcw3UERE"


@pytest.fixture
def router() -> MeshGossipSub:
    router = MeshGossipSub([TOPIC])
    router.sent = defaultdict(list)
    router.send_rpc = lambda peer, rpc, priority=False: router.sent[peer].append(rpc)
    return router


def cached(router: MeshGossipSub, number: int, size_bytes: int = 10) -> bytes:
    message = rpc_pb2.Message(
        from_id=b"from", seqno=number.to_bytes(8, "big"), data=bytes(size_bytes), topicIDs=[TOPIC]
    )
    router.mcache.put(message)
    return message.from_id + message.seqno


def test_wanted_message_is_sent_once_however_often_its_id_is_repeated(
    router: MeshGossipSub,
) -> None:
    wanted = cached(router, 1)
    iwant = rpc_pb2.ControlIWant(messageIDs=[wanted] * 4000)
    trio.run(router.handle_iwant, iwant, PEER)
    assert [len(rpc.publish) for rpc in router.sent[PEER]] == [1]


def test_one_request_for_messages_makes_us_send_no_more_than_the_limit(
    router: MeshGossipSub,
) -> None:
    ids = [cached(router, number, MAX_IWANT_BYTES // 4) for number in range(20)]
    trio.run(router.handle_iwant, rpc_pb2.ControlIWant(messageIDs=ids), PEER)
    assert len(router.sent[PEER]) == 3


def test_control_messages_for_unknown_topics_leave_no_trace(router: MeshGossipSub) -> None:
    control = rpc_pb2.ControlMessage(
        graft=[rpc_pb2.ControlGraft(topicID=f"t{n}") for n in range(1000)],
        prune=[rpc_pb2.ControlPrune(topicID=f"t{n}", backoff=9) for n in range(1000)],
    )
    trio.run(router.handle_rpc, rpc_pb2.RPC(control=control), PEER)
    assert router.back_off == {}
    assert not router.graft_flood_tracking
    assert router.sent == {}


def test_peers_wish_to_be_left_alone_is_bounded_and_its_friends_are_not_dialled(
    router: MeshGossipSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.0)
    prune = rpc_pb2.ControlPrune(
        topicID=TOPIC, backoff=2**63, peers=[rpc_pb2.PeerInfo(peerID=b"friend")]
    )
    router._do_px = None
    trio.run(router.handle_rpc, rpc_pb2.RPC(control=rpc_pb2.ControlMessage(prune=[prune])), PEER)
    assert router.back_off == {TOPIC: {PEER: 4600}}


def test_peer_that_forwards_too_fast_is_not_listened_to(
    router: MeshGossipSub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 5.0)
    allowed = [router.allows(PEER, TOPIC) for _ in range(MAX_MESSAGES_PER_PEER_S + 1)]
    assert allowed == [True] * MAX_MESSAGES_PER_PEER_S + [False]
    monkeypatch.setattr("time.monotonic", lambda: 6.1)
    assert router.allows(PEER, TOPIC)


def test_bad_messages_silence_a_peer_and_a_reconnect_does_not_clear_it(
    router: MeshGossipSub,
) -> None:
    for _ in range(5):
        router.blame(PEER, TOPIC)
    assert router.allows(PEER, TOPIC)
    router.blame(PEER, TOPIC)
    assert not router.allows(PEER, TOPIC)
    router.remove_peer(PEER)
    assert not router.allows(PEER, TOPIC)
    for _ in range(20):
        router.scorer.on_heartbeat()
    assert router.allows(PEER, TOPIC)


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        (b"", None),
        (b"\x80", None),
        (b"\x80\x01rest", (2, 128)),
        (b"\x00", (1, 0)),
    ],
)
def test_length_prefix_is_read_when_it_is_complete(
    prefix: bytes, found: tuple[int, int] | None
) -> None:
    assert _length_prefix(bytearray(prefix)) == found


@pytest.mark.parametrize("prefix", [b"\x80" * 4, b"\xff\xff\xff\x7f"])
def test_length_prefix_over_the_limit_is_refused(prefix: bytes) -> None:
    with pytest.raises(ValueError, match=f"the limit is {MAX_RPC_BYTES}"):
        _length_prefix(bytearray(prefix))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/ip4/192.0.2.1/tcp/4001",
        "/ip4/192.0.2.1/tcp/4001/p2p/",
        f"/ip4/192.0.2.1/udp/4001/p2p/{PEER_TEXT}",
        f"/ip4/300.0.2.1/tcp/4001/p2p/{PEER_TEXT}",
        f"/p2p/{PEER_TEXT}",
        "/ip4/192.0.2.1/tcp/4001/p2p/" + "x" * 10_000,
    ],
)
def test_text_that_cannot_be_dialled_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match="no address such as"):
        parse_target(text)


def test_address_to_dial_ends_in_a_peer_id() -> None:
    peer, addr = parse_target(f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER_TEXT}")
    assert (str(peer), str(addr)) == (PEER_TEXT, "/ip4/192.0.2.1/tcp/4001")
    assert announced(["/ip4/192.0.2.1/tcp/1/p2p/x"]) == (["/ip4/192.0.2.1/tcp/1/p2p/x"], 0)
    assert announced(["/ip4/0.0.0.0/tcp/4001/p2p/x"]) == ([], 4001)
    kind = service_type(NetworkId("cm-0123456789abcdef0123456789abcdef"))
    assert kind == "_p2p-01234567._udp.local."


def test_bytes_that_are_no_rpc_silence_a_peer_after_a_few(router: MeshGossipSub) -> None:
    for _ in range(4):
        router.penalize(PEER)
    assert router.allows(PEER, TOPIC)
    router.penalize(PEER)
    assert not router.allows(PEER, TOPIC)
