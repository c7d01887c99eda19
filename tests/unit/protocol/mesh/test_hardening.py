"""The walls around libp2p, each against what it holds back, in virtual time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import Service, background_trio_service
from libp2p.tools.anyio_service.trio_manager import TrioManager

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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PEER = ID(b"peer")


def run_in_virtual_time(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(1000):
            await test()

    trio.run(limited, clock=trio.testing.MockClock(autojump_threshold=0))


class Wire:
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


def test_peer_that_answers_pings_stays_connected_and_one_that_stops_is_closed() -> None:
    async def test() -> None:
        wire = Wire()
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

    run_in_virtual_time(test)


def test_close_ends_although_the_peer_does_not_read() -> None:
    async def test() -> None:
        wire = Wire(is_read=False)
        yamux = WalledYamux(wire, PEER)
        await yamux.close()
        assert wire.is_closed
        assert yamux.is_closed
        assert trio.current_time() <= 1.1

    run_in_virtual_time(test)


def test_connection_with_too_much_unread_is_closed_before_more_is_read() -> None:
    async def test() -> None:
        wire = Wire()
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

    run_in_virtual_time(test)


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


def test_failing_stream_handler_costs_the_peer_its_stream_only() -> None:
    async def failing(_: object) -> None:
        raise ExceptionGroup("several", [ValueError("bad")])

    warnings: list[str] = []
    stream = Stream()
    trio.run(contain_streams(failing, lambda event, _: warnings.append(event)), stream)
    assert (stream.was_reset, warnings) == (True, ["stream_failed"])


def test_cancellation_passes_the_walls() -> None:
    async def test() -> None:
        async def sleep(*_: object) -> None:
            await trio.sleep_forever()

        for walled in (contain(sleep, print), contain_streams(sleep, print)):
            with trio.move_on_after(1) as scope:
                await walled(Stream())
            assert scope.cancelled_caught

    run_in_virtual_time(test)


def test_peer_has_a_limited_number_of_streams_and_others_have_theirs() -> None:
    async def test() -> None:
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

    run_in_virtual_time(test)


def test_failing_task_of_a_service_leaves_the_service_running_and_a_loop_starts_again(
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

    async def test() -> None:
        async with background_trio_service(Demo()) as manager:
            await trio.sleep(2.5)
            assert manager.is_running
        assert sorted(runs) == ["loop", "loop", "loop", "once"]
        assert len(warnings) == 4

    run_in_virtual_time(test)
