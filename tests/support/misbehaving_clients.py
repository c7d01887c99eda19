"""Clients that misbehave, each in a way of its own, on one connection after another; also as a process of their own.

`python misbehaving_clients.py HOST PORT CA COUNT [KIND…]`: prints that it begins, and lets so many misbehave at a time, of all
kinds or of these, until standard input ends; then it prints how often each kind has had its way. CA is the authority's file, or `-` for plain HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import random
import socket
import ssl
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from http2_client import HEAD, Http2Client
from http2_frames import CONTINUATION, PING, frame
from http_load import digits_body

from capamesh.router.grpc.methods import SERVICE

INFER = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\n"
"""The beginning of a request, of a model that need not be there."""
BODY = digits_body()
REQUEST = INFER + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
GRPC_INFER = tuple(
    (name, f"/{SERVICE}/ModelInfer".encode() if name == b":path" else value) for name, value in HEAD
)
GARBAGE_BYTES = 20_000
RESETS = 2_000
FLOOD = 5_000


@dataclass(frozen=True, slots=True)
class Target:
    """Where they go: a port, by TLS where `tls` says whom to trust, and how long they wait between two bytes."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    pause_s: float = 0.5

    @asynccontextmanager
    async def connected(
        self, *, protocol: str = "http/1.1", is_plain: bool = False
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Connect, and hang up at the end."""
        tls = None if is_plain else self.tls
        if tls is not None:
            tls.set_alpn_protocols([protocol])  # asked for before anybody else has a turn
        name = None if tls is None else "localhost"
        reader, writer = await asyncio.open_connection(
            self.host, self.port, ssl=tls, server_hostname=name
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)


async def slow_head(target: Target, _: random.Random) -> None:
    async with target.connected() as (reader, writer):
        await _trickle(reader, writer, INFER, target.pause_s)


async def slow_body(target: Target, _: random.Random) -> None:
    """Send a body byte by byte, of which much is announced."""
    async with target.connected() as (reader, writer):
        writer.write(INFER + b"Content-Length: 3000000\r\n\r\n" + bytes(1000))
        await _trickle(reader, writer, bytes(2_000), target.pause_s)


async def slow_handshake(target: Target, _: random.Random) -> None:
    """Send the beginning of what may become a handshake, and hold on."""
    async with target.connected(is_plain=True) as (reader, writer):
        await _trickle(reader, writer, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", target.pause_s)
        await reader.read()


async def silent(target: Target, _: random.Random) -> None:
    async with target.connected() as (reader, _writer):
        await reader.read()


async def cut(target: Target, rng: random.Random) -> None:
    """Reset the connection somewhere within a request, or behind it."""
    async with target.connected() as (_, writer):
        writer.write(REQUEST[: rng.randrange(1, len(REQUEST) + 1)])
        await asyncio.sleep(rng.random() * 0.01)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def garbage(target: Target, rng: random.Random) -> None:
    """Send what is no protocol at all, by TLS or before it."""
    async with target.connected(is_plain=rng.random() < 0.5) as (reader, writer):
        writer.write(rng.randbytes(GARBAGE_BYTES))
        await reader.read()


async def oversize(target: Target, rng: random.Random) -> None:
    """Announce a body that is too large, or send a head that is."""
    async with target.connected() as (reader, writer):
        if rng.random() < 0.5:
            writer.write(INFER + b"Content-Length: 100000000000\r\n\r\n" + bytes(50_000))
        else:
            writer.write(INFER + b"X-Large: " + b"a" * 1_000_000)
        await reader.read()


async def unread(target: Target, _: random.Random) -> None:
    """Ask often at once and read nothing, for a while."""
    async with target.connected() as (_reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(REQUEST * 100)
        await asyncio.sleep(20 * target.pause_s)


async def rapid_reset(target: Target, _: random.Random) -> None:
    """Open streams and reset them at once."""
    await _flood(target, *_resets())


async def continuation_flood(target: Target, _: random.Random) -> None:
    """Send a block of headers that does not end."""
    client = Http2Client()
    begin = client.begin() + client.head(1, GRPC_INFER, is_whole=False)
    await _flood(target, begin, *[frame(CONTINUATION, 0, 1) * 50] * (FLOOD // 50))


async def ping_flood(target: Target, _: random.Random) -> None:
    """Ask for acknowledgements without end, and read none."""
    pings = [frame(PING, 0, 0, bytes(8)) * 50] * (FLOOD // 50)
    await _flood(target, Http2Client().begin(), *pings)


KINDS: tuple[Callable[[Target, random.Random], Awaitable[None]], ...] = (
    slow_head,
    slow_body,
    slow_handshake,
    silent,
    cut,
    garbage,
    oversize,
    unread,
    rapid_reset,
    continuation_flood,
    ping_flood,
)


@functools.cache
def _resets() -> list[bytes]:
    """Return what opens and resets streams, in pieces; made once, for it takes longer than to be sent."""
    client = Http2Client()
    pieces = [client.begin()]
    for first in range(1, 2 * RESETS, 100):
        streams = range(first, first + 100, 2)
        pieces.append(
            b"".join(client.head(each, GRPC_INFER) + client.reset(each) for each in streams)
        )
    return pieces


async def _flood(target: Target, *pieces: bytes) -> None:
    """Send all pieces by HTTP/2, unless the other side hangs up, and wait until it does."""
    async with target.connected(protocol="h2") as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
            if writer.transport.is_closing():
                return
        await reader.read()


async def _trickle(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, pause_s: float
) -> None:
    """Send byte after byte until the other side hangs up."""
    ended = asyncio.ensure_future(reader.read())
    try:
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await writer.drain()
            done, _ = await asyncio.wait({ended}, timeout=pause_s)
            if done:
                return
    finally:
        ended.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await ended


async def misbehave(
    kind: Callable[[Target, random.Random], Awaitable[None]],
    target: Target,
    rng: random.Random,
    done: Counter[str],
    *,
    rounds: int | None = None,
) -> None:
    """Misbehave so on one connection after another, `rounds` times or until cancelled; count the times."""
    for at in itertools.count():
        if at == rounds:
            return
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await kind(target, rng)
        done[kind.__name__] += 1
        await asyncio.sleep(target.pause_s)


async def main(host: str, port: int, ca: str, count: int, names: list[str]) -> None:
    """Let so many misbehave at a time until standard input ends, and print what they came to."""
    tls = None if ca == "-" else ssl.create_default_context(cafile=ca)
    target = Target(host, port, tls)
    done: Counter[str] = Counter()
    kinds = [
        kind
        for kind in KINDS
        if kind.__name__ in (names or [kind.__name__])
        and (tls is not None or kind is not slow_handshake)
    ]
    _resets()
    print("misbehaving", flush=True)  # noqa: T201 - its owner waits for the line
    tasks = [
        asyncio.create_task(misbehave(kind, target, random.Random(at), done))
        for at, kind in zip(range(count), itertools.cycle(kinds), strict=False)
    ]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(done))  # noqa: T201 - its result


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:]))
