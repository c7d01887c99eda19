"""The transport of links on sockets of this machine, with a peer whose own TLS is Python's."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any, cast

import pytest
from link_sockets import HOST, Members, within
from patience import LIMIT_S, until
from typing_extensions import override

from capamesh.protocol.links.outgoing import RECORD_BYTES
from capamesh.protocol.links.tls_transport import TlsTransport, open_tls
from capamesh.protocol.network import Role

MB = 1_000_000


class Reading(asyncio.BufferedProtocol):
    """Keeps what comes, read into buffers of one size, and what else it is told."""

    def __init__(self, buffer_bytes: int = 100_000) -> None:
        self.transport: TlsTransport
        self.memory = memoryview(bytearray(buffer_bytes))
        self.came = bytearray()
        self.told: list[str] = []
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.defect: Exception | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("TlsTransport", transport)

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self.memory

    @override
    def buffer_updated(self, nbytes: int) -> None:
        self.came += self.memory[:nbytes]
        if self.defect is not None:
            raise self.defect

    @override
    def pause_writing(self) -> None:
        self.told.append("pause")

    @override
    def resume_writing(self) -> None:
        self.told.append("resume")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


class Peer:
    """The other end: blocking, in threads."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls

    async def read(self, size: int) -> bytes:
        def reads() -> bytes:
            came = bytearray()
            while len(came) < size and (data := self.tls.recv(size - len(came))):
                came += data
            return bytes(came)

        return await within(asyncio.to_thread(reads))

    async def write(self, data: bytes) -> None:
        await within(asyncio.to_thread(self.tls.sendall, data))


@asynccontextmanager
async def pair(
    members: Members, buffer_bytes: int = 100_000, *, linger_s: float | None = None
) -> AsyncIterator[tuple[Reading, Peer]]:
    protocol = Reading(buffer_bytes)
    with socket.create_server((HOST, 0)) as listening:
        plain = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    accepted.setblocking(False)
    accepted_at = accepted.fileno()
    context = members.tls(members.join(Role.ROUTER))
    shaking = asyncio.create_task(
        open_tls(
            accepted,
            members.tls(members.join(Role.NODE), server_side=True),
            protocol,
            server_side=True,
            patience_s=LIMIT_S,
            peername=plain.getsockname(),
            linger_s=linger_s,
        )
    )
    with await within(asyncio.to_thread(context.wrap_socket, plain)) as tls:
        await within(shaking)
        assert protocol.transport.get_extra_info("peername") == tls.getsockname()
        assert protocol.transport.get_extra_info("socket").fileno() == accepted_at  # type: ignore[attr-defined]
        assert protocol.transport.get_extra_info("cipher", "none") == "none"
        yield protocol, Peer(tls)
        protocol.transport.abort()
        await within(protocol.ended)
        assert accepted.fileno() == -1


@pytest.mark.parametrize("buffer_bytes", [1, 1000, RECORD_BYTES, 300_000])
async def test_all_that_is_sent_comes_into_buffers_of_any_size(
    members: Members, buffer_bytes: int
) -> None:
    data = os.urandom(30_000 if buffer_bytes == 1 else 3 * MB)
    async with pair(members, buffer_bytes) as (reading, peer):
        await peer.write(data)
        await until(lambda: len(reading.came) == len(data), "not all came")
        assert reading.came == data


async def test_writer_is_paused_while_the_peer_does_not_read_and_all_comes_in_order(
    members: Members,
) -> None:
    data = os.urandom(20 * MB)
    view = memoryview(data)
    cuts = [0, 1, 20, 20 + RECORD_BYTES, 50_000, 50_001, 9 * MB, len(data)]
    async with pair(members) as (writing, peer):
        writing.transport.writelines([view[a:b] for a, b in pairwise(cuts)])
        assert writing.told == ["pause"]
        assert 0 < writing.transport.get_write_buffer_size() < len(data)
        writing.transport.write(b"the end")
        assert await peer.read(len(data) + 7) == data + b"the end"
        await until(lambda: writing.told == ["pause", "resume"], "not resumed")
        assert writing.transport.get_write_buffer_size() == 0


async def test_short_buffers_are_sent_in_one_record(members: Members) -> None:
    async with pair(members) as (writing, peer):
        writing.transport.writelines([b"head", bytes(2 * RECORD_BYTES - 4)])
        sizes = [len(await within(asyncio.to_thread(peer.tls.recv, 10**6))) for _ in range(2)]
        assert sizes == [RECORD_BYTES, RECORD_BYTES]


async def test_closing_sends_what_was_written_and_ends_when_the_peer_does(
    members: Members,
) -> None:
    data = os.urandom(20 * MB)
    async with pair(members) as (writing, peer):
        await peer.write(b"unread")
        writing.transport.write(data)
        writing.transport.close()
        writing.transport.write(b"too late")
        assert writing.transport.is_closing()
        assert await peer.read(len(data) + 1) == data  # and TLS's goodbye
        assert not writing.ended.done()
        with suppress(OSError):
            peer.tls.unwrap()
        peer.tls.close()
        assert await within(asyncio.shield(writing.ended)) is None


async def test_paused_reader_is_given_nothing_and_then_all(members: Members) -> None:
    data = os.urandom(5 * RECORD_BYTES)
    async with pair(members, 1000) as (reading, peer):
        took = reading.buffer_updated

        def take_some(nbytes: int) -> None:
            took(nbytes)
            if len(reading.came) == 3000:  # OpenSSL has the rest of a record
                reading.transport.pause_reading()

        reading.buffer_updated = take_some  # type: ignore[method-assign]
        await peer.write(data)
        await until(lambda: len(reading.came) == 3000, "nothing came")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(reading.came) == 3000
        reading.transport.resume_reading()
        reading.transport.resume_reading()
        await until(lambda: len(reading.came) == len(data), "not all came")
        assert reading.came == data


async def test_paused_reader_that_closes_learns_that_the_peer_has_hung_up(
    members: Members,
) -> None:
    async with pair(members) as (reading, peer):
        reading.transport.pause_reading()
        await peer.write(b"unread")
        reading.transport.close()
        assert await peer.read(1) == b""
        peer.tls.close()
        assert await within(asyncio.shield(reading.ended)) is None
        assert reading.came == b""


async def test_peer_that_does_not_hang_up_is_hung_up_on_behind_the_last_byte(
    members: Members,
) -> None:
    data = os.urandom(20 * MB)
    async with pair(members, linger_s=0.02) as (writing, peer):
        writing.transport.write(data)
        writing.transport.write_eof()
        writing.transport.close()
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert not writing.ended.done()  # it has not read all
        assert await peer.read(len(data) + 1) == data
        assert await within(asyncio.shield(writing.ended)) is None


async def test_end_of_what_is_sent_leaves_the_peer_time_until_it_is_closed(
    members: Members,
) -> None:
    async with pair(members, linger_s=0.0) as (writing, peer):
        writing.transport.write(b"last words")
        writing.transport.write_eof()
        assert await peer.read(100) == b"last words"
        await peer.write(b"dropped")
        await asyncio.sleep(0)
        assert not writing.ended.done()
        writing.transport.close()
        assert await within(asyncio.shield(writing.ended)) is None
        assert writing.came == b""


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_peer_that_ends_is_the_end(members: Members, says_goodbye: bool) -> None:
    async with pair(members) as (reading, peer):
        await peer.write(b"last words")
        if says_goodbye:
            with suppress(ssl.SSLWantReadError):
                peer.tls.setblocking(False)
                peer.tls.unwrap()
        else:
            peer.tls.close()
        assert await within(asyncio.shield(reading.ended)) is None
        assert reading.came == b"last words"


async def test_bytes_that_are_not_tls_are_an_error(members: Members) -> None:
    async with pair(members) as (reading, peer):
        os.write(peer.tls.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        assert isinstance(await within(asyncio.shield(reading.ended)), ssl.SSLError)


async def test_defect_of_the_protocol_is_reported_and_ends_the_connection(
    members: Members,
) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with pair(members) as (reading, peer):
        reading.defect = RuntimeError("a defect")
        await peer.write(b"anything")
        assert await within(asyncio.shield(reading.ended)) is reading.defect
    assert [context["exception"] for context in reported] == [reading.defect]


async def test_handshake_that_takes_too_long_is_given_up(members: Members) -> None:
    with socket.create_server((HOST, 0)) as listening:
        silent = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    accepted.setblocking(False)
    context = members.tls(members.join(Role.NODE), server_side=True)
    with silent, pytest.raises(TimeoutError):
        await open_tls(accepted, context, Reading(), server_side=True, patience_s=0.01)
    assert accepted.fileno() == -1
