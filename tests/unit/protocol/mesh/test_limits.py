"""What bounds others in the mesh: messages of gossip, connections of strangers, streams and tasks of libp2p."""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import Service, background_trio_service
from libp2p.tools.anyio_service.trio_manager import TrioManager

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.mesh.dialer import parse_target
from capamesh.protocol.mesh.gossipsub import MAX_IWANT_BYTES, MAX_MESSAGES_PER_PEER_S, MeshGossipSub
from capamesh.protocol.mesh.hardening import (
    KEEPALIVE_EVERY_S,
    KEEPALIVE_LIMIT_S,
    MAX_BUFFERED_BYTES,
    MAX_STREAMS_PER_PEER,
    WalledYamux,
    contain,
    contain_streams,
    contain_tasks,
    multiplex_within_limits,
)
from capamesh.protocol.mesh.lan import announced, service_type
from capamesh.protocol.mesh.port import MeshPort, limits_for_mesh
from capamesh.protocol.mesh.pubsub import MAX_RPC_BYTES, _length_prefix

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def in_virtual_time(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Have a test run in trio, on a clock that jumps to what is due next."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        async def limited() -> None:
            with trio.fail_after(1000):
                await test(*args, **fixtures)

        trio.run(limited, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


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


def test_request_for_messages_makes_us_send_each_once_and_no_more_than_the_limit(
    router: MeshGossipSub,
) -> None:
    iwant = rpc_pb2.ControlIWant(messageIDs=[cached(router, 1)] * 4000)
    trio.run(router.handle_iwant, iwant, PEER)
    assert [len(rpc.publish) for rpc in router.sent.pop(PEER)] == [1]
    ids = [cached(router, number, MAX_IWANT_BYTES // 4) for number in range(2, 22)]
    trio.run(router.handle_iwant, rpc_pb2.ControlIWant(messageIDs=ids), PEER)
    assert len(router.sent[PEER]) == 3


def test_control_messages_for_unknown_topics_leave_no_trace(router: MeshGossipSub) -> None:
    control = rpc_pb2.ControlMessage(
        graft=[rpc_pb2.ControlGraft(topicID=f"t{n}") for n in range(1000)],
        prune=[rpc_pb2.ControlPrune(topicID=f"t{n}", backoff=9) for n in range(1000)],
    )
    trio.run(router.handle_rpc, rpc_pb2.RPC(control=control), PEER)
    assert (router.back_off, dict(router.graft_flood_tracking), router.sent) == ({}, {}, {})


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
    for number in range(6):
        assert router.allows(PEER, TOPIC), number
        router.blame(PEER, TOPIC)
    assert not router.allows(PEER, TOPIC)
    router.remove_peer(PEER)
    assert not router.allows(PEER, TOPIC)
    for _ in range(20):
        router.scorer.on_heartbeat()
    assert router.allows(PEER, TOPIC)


def test_text_that_cannot_be_dialled_and_a_long_prefix_are_refused() -> None:
    for prefix in (b"\x80" * 4, b"\xff\xff\xff\x7f"):
        with pytest.raises(ValueError, match=f"the limit is {MAX_RPC_BYTES}"):
            _length_prefix(bytearray(prefix))
    for text in (
        "",
        "/ip4/192.0.2.1/tcp/4001",
        "/ip4/192.0.2.1/tcp/4001/p2p/",
        f"/ip4/192.0.2.1/udp/4001/p2p/{PEER_TEXT}",
        f"/ip4/300.0.2.1/tcp/4001/p2p/{PEER_TEXT}",
        f"/p2p/{PEER_TEXT}",
        "/ip4/192.0.2.1/tcp/4001/p2p/" + "x" * 10_000,
    ):
        with pytest.raises(ConfigError, match="no address such as"):
            parse_target(text)


def test_address_to_dial_ends_in_a_peer_id() -> None:
    peer, addr = parse_target(f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER_TEXT}")
    assert (str(peer), str(addr)) == (PEER_TEXT, "/ip4/192.0.2.1/tcp/4001")
    assert announced(["/ip4/192.0.2.1/tcp/1/p2p/x"]) == (["/ip4/192.0.2.1/tcp/1/p2p/x"], 0)
    assert announced(["/ip4/0.0.0.0/tcp/4001/p2p/x"]) == ([], 4001)
    kind = service_type(NetworkId("cm-0123456789abcdef0123456789abcdef"))
    assert kind == "_p2p-01234567._udp.local."


FEW = dataclasses.replace(limits_for_mesh(1024), unproven=2, unproven_of_address=2)


class AcceptedWire:
    """An accepted connection."""

    def __init__(self, host: str = "1.1.1.1") -> None:
        self.host = host
        self.is_closed = False
        self.ended = trio.Event()

    def get_remote_address(self) -> tuple[str, int]:
        return self.host, 9

    async def close(self) -> None:
        self.is_closed = True
        self.ended.set()


class Swarm:
    """What a port guards: each connection is of the peer that its wire is, once it says so."""

    def __init__(self, port: MeshPort) -> None:
        self.is_refusing = False
        self.upgraded = 0
        port.guard(self)  # type: ignore[arg-type]  # the part of a swarm that counts here

    async def upgrade_inbound_raw_conn(self, raw: object, _maddr: object) -> object:
        wire = raw.stream  # type: ignore[attr-defined]  # libp2p's raw connection
        await trio.sleep(0.1)
        if self.is_refusing:
            raise ValueError("no noise")
        self.upgraded += 1
        return SimpleNamespace(event_closed=wire.ended, peer_id=id(wire), close=wire.close)

    async def accepted(self, wire: AcceptedWire) -> None:
        await self._do_handle_inbound_connection(wire, None, None)  # type: ignore[attr-defined]  # as the port set it


@in_virtual_time
async def test_longest_unproven_gives_way_whether_it_has_said_who_it_is_or_not() -> None:
    port = MeshPort(FEW)
    swarm, wires = Swarm(port), [AcceptedWire() for _ in range(6)]
    async with trio.open_nursery() as nursery:
        for number, wire in enumerate(wires):
            nursery.start_soon(swarm.accepted, wire)
            await trio.sleep(1.0 if number < 3 else 0.01)
        await trio.sleep(1)
        assert [wire.is_closed for wire in wires] == [True] * 4 + [False] * 2
        assert repr(port) == "MeshPort(ConnectionLimiter(2 open, 2 unproven))"
        for wire in wires:
            wire.ended.set()
    assert repr(port) == "MeshPort(ConnectionLimiter(0 open, 0 unproven))"


@in_virtual_time
async def test_member_stays_while_strangers_come_and_its_next_connection_is_a_members_at_once() -> (
    None
):
    port = MeshPort(FEW)
    swarm, member = Swarm(port), AcceptedWire("9.9.9.9")
    strangers = [AcceptedWire(f"1.1.1.{number}") for number in range(20)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swarm.accepted, member)
        await trio.sleep(1)
        port.members_are({id(member)})  # type: ignore[arg-type]  # as above
        nursery.start_soon(swarm.accepted, member)
        await trio.sleep(1)
        assert repr(port) == "MeshPort(ConnectionLimiter(2 open, 0 unproven))"
        for stranger in strangers:
            nursery.start_soon(swarm.accepted, stranger)
        await trio.sleep(1)
        assert not member.is_closed
        assert sum(stranger.is_closed for stranger in strangers) == 18
        for wire in (member, *strangers):
            wire.ended.set()


@in_virtual_time
async def test_connection_over_the_rate_or_that_cannot_be_upgraded_is_closed() -> None:
    port = MeshPort(limits_for_mesh(1024))
    swarm = Swarm(port)
    swarm.is_refusing = True
    wires = [AcceptedWire() for _ in range(100)]
    for wire in wires:
        await swarm.accepted(wire)
        assert wire.is_closed
    swarm.is_refusing = False
    flood = [AcceptedWire() for _ in range(200)]
    async with trio.open_nursery() as nursery:
        for wire in flood:
            nursery.start_soon(swarm.accepted, wire)
        await trio.sleep(1)
        assert swarm.upgraded <= 64
        assert sum(wire.is_closed for wire in flood) >= 200 - 64
        for wire in flood:
            wire.ended.set()


class SecuredWire:
    """A secured connection whose peer says what a test feeds and reads what it allows."""

    is_initiator = True

    def __init__(self, *, is_read: bool = True) -> None:
        self._fed_send, self._fed = trio.open_memory_channel[bytes](100)
        self._buffer = b""
        self._is_read = is_read
        self.is_closed = False
        self.answers_pings = False

    def feed(self, data: bytes) -> None:
        self._fed_send.send_nowait(data)

    async def read(self, n: int) -> bytes:
        if not self._buffer:
            self._buffer = await self._fed.receive()
        data, self._buffer = self._buffer[:n], self._buffer[n:]
        return data

    async def write(self, data: bytes) -> None:
        if not self._is_read:
            await trio.sleep_forever()
        if self.answers_pings and data[1] == 2:
            self.feed(b"\x00\x02\x00\x02" + data[4:])

    async def close(self) -> None:
        self.is_closed = True
        self._fed_send.close()


@in_virtual_time
async def test_peer_that_answers_pings_stays_connected_and_one_that_stops_is_closed() -> None:
    wire = SecuredWire()
    wire.answers_pings = True
    yamux = WalledYamux(wire, PEER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(yamux.start)
        await trio.sleep(10 * KEEPALIVE_EVERY_S)
        assert not yamux.is_closed
        wire.answers_pings = False
        silent_since_s = trio.current_time()
        await yamux.event_closed.wait()
        assert trio.current_time() - silent_since_s <= KEEPALIVE_EVERY_S + KEEPALIVE_LIMIT_S
        assert wire.is_closed


@in_virtual_time
async def test_close_ends_although_the_peer_does_not_read() -> None:
    wire = SecuredWire(is_read=False)
    yamux = WalledYamux(wire, PEER)
    await yamux.close()
    assert wire.is_closed
    assert yamux.is_closed
    assert trio.current_time() <= 1.1


@in_virtual_time
async def test_connection_with_too_much_unread_is_closed_before_more_is_read() -> None:
    wire = SecuredWire()
    yamux = WalledYamux(wire, PEER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(yamux.start)
        await yamux.event_started.wait()
        stream = await yamux.open_stream()
        chunk = 2**20
        header = bytes(4) + stream.stream_id.to_bytes(4, "big") + chunk.to_bytes(4, "big")
        for _ in range(MAX_BUFFERED_BYTES // chunk):
            wire.feed(header + bytes(chunk))
        await trio.sleep(1)
        assert len(yamux.stream_buffers[stream.stream_id]) == MAX_BUFFERED_BYTES
        assert not yamux.is_closed
        wire.feed(bytes(4) + stream.stream_id.to_bytes(4, "big") + bytes([0, 0, 0, 1]))
        await yamux.event_closed.wait()
        assert wire.is_closed


def test_libp2p_makes_its_connections_with_the_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    # libp2p ignores the class that a host is given.
    monkeypatch.setattr(muxer_multistream, "Yamux", Yamux)
    multiplex_within_limits()
    assert muxer_multistream.Yamux is WalledYamux


class Stream:
    def __init__(self, peer: ID = PEER) -> None:
        self.muxed_conn = SimpleNamespace(peer_id=peer)
        self.was_reset = False

    async def reset(self) -> None:
        self.was_reset = True


def test_failing_stream_handler_costs_the_peer_its_stream_only_and_cancellation_passes() -> None:
    async def failing(_: object) -> None:
        raise ExceptionGroup("several", [ValueError("bad")])

    async def sleep(*_: object) -> None:
        await trio.sleep_forever()

    async def cancelled() -> None:
        for walled in (contain(sleep, print), contain_streams(sleep, print)):
            with trio.move_on_after(1) as scope:
                await walled(Stream())
            assert scope.cancelled_caught

    warnings: list[str] = []
    stream = Stream()
    trio.run(contain_streams(failing, lambda event, _: warnings.append(event)), stream)
    assert (stream.was_reset, warnings) == (True, ["stream_failed"])
    in_virtual_time(cancelled)()


@in_virtual_time
async def test_peer_has_a_limited_number_of_streams_and_others_have_theirs() -> None:
    async def handler(_: object) -> None:
        await trio.sleep(10)

    handle = contain_streams(handler, lambda *_: None)
    streams = [Stream() for _ in range(MAX_STREAMS_PER_PEER + 1)]
    other = Stream(ID(b"other"))
    async with trio.open_nursery() as nursery:
        for stream in (*streams, other):
            nursery.start_soon(handle, stream)
        await trio.sleep(1)
        assert sum(stream.was_reset for stream in streams) == 1
        assert not other.was_reset
    late = Stream()
    await handle(late)
    assert not late.was_reset


@in_virtual_time
async def test_failing_task_of_a_service_leaves_the_service_running_and_a_loop_starts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TrioManager, "run_task", TrioManager.run_task)
    warnings: list[object] = []
    contain_tasks(lambda _, detail: warnings.append(detail))
    runs: list[str] = []

    class Demo(Service):
        async def run(self) -> None:
            self.manager.run_task(self.once)
            self.manager.run_daemon_task(self.loop)
            await self.manager.wait_finished()

        async def once(self) -> None:
            runs.append("once")
            raise ValueError("bad task")

        async def loop(self) -> None:
            runs.append("loop")
            raise ValueError("bad loop")

    async with background_trio_service(Demo()) as manager:
        await trio.sleep(2.5)
        assert manager.is_running
    assert sorted(runs) == ["loop", "loop", "loop", "once"]
    assert len(warnings) == 4
