"""Strangers who hold connections and bodies without end take neither the router's memory nor anybody's place."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from hostile import MIB, Figures, attacked

HEAD = (
    b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nInference-Header-Content-Length: 9\r\n"
    b"Content-Length: %d\r\n\r\n"
)
CHUNKED = b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
MANY = 1000
ASKS = 60_000
"""Of a client that does not read; all clients' answers are over 300 MB, of which their sockets take 4 MB each."""
CHUNKS = 10_000
"""Of a body; with an object for each, those of all bodies would take over 200 MB."""
ARRIVING = ("capamesh_http_body_bytes_arriving", "capamesh_http_bodies_ended")


class Stranger(asyncio.Protocol):
    """Sends what it has, then nothing more, and holds on."""

    def __init__(self, data: bytes, keeper: set[Stranger]) -> None:
        self._data = data
        self._keeper = keeper

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._keeper.add(self)
        transport.write(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._keeper.discard(self)


async def crowd(address: tuple[str, int], bodies: list[bytes], keeper: set[Stranger]) -> None:
    """Let strangers come, some at a time."""
    loop = asyncio.get_running_loop()
    for at in range(0, len(bodies), 50):
        for data in bodies[at : at + 50]:
            with contextlib.suppress(OSError):
                await loop.create_connection(lambda data=data: Stranger(data, keeper), *address)  # type: ignore[misc]
        await asyncio.sleep(0.02)


@pytest.mark.smoke
async def test_thousand_unfinished_bodies_fill_no_memory_and_turn_nobody_away(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    part = bytes(256 * 1024)
    large = HEAD % (60 * MIB) + part
    chunks = CHUNKED + b"%x\r\n" % (MIB) + part
    small = HEAD % 60_000 + bytes(100)
    keeper: set[Stranger] = set()
    async with attacked(tmp_path, sample_models, nodes=2) as network:
        async with network.honest(connections=3, is_new=True) as seen:
            await crowd(network.address, [large, large, chunks, small] * (MANY // 4), keeper)
            await network.until_still(*ARRIVING)
            peak = network.peak_bytes(network.router)
            # and a few that send nearly all of what they announced
            nearly = HEAD % (60 * MIB) + bytes(60 * MIB - 1)
            await crowd(network.address, [nearly] * 6, keeper)
            await network.until_still(*ARRIVING)
        for stranger in list(keeper):
            stranger.transport.abort()
        assert seen.failures == {}
        figures.at_most("router beside 1,000 unfinished bodies, MB", peak / 1e6, 300)
        figures.at_most(
            "and six of 60 MiB but a byte, MB", network.peak_bytes(network.router) / 1e6, 300
        )
        figures.at_least("answers to new clients meanwhile", seen.answered, 20)


async def test_thousand_bodies_in_chunks_fill_no_memory_either(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    part = bytes(256 * 1024)
    large = CHUNKED + b"%x\r\n" % MIB + part
    tiny = CHUNKED + b"2\r\nab\r\n" * CHUNKS
    keeper: set[Stranger] = set()
    async with attacked(tmp_path, sample_models, nodes=1) as network:
        async with network.honest(connections=2, is_new=True) as seen:
            await crowd(network.address, [large, tiny] * (MANY // 2), keeper)
            await network.until_still(*ARRIVING)
        for stranger in list(keeper):
            stranger.transport.abort()
        assert seen.failures == {}
        figures.at_most(
            "router beside 1,000 unfinished bodies in chunks, MB",
            network.peak_bytes(network.router) / 1e6,
            300,
        )


async def test_idle_strangers_take_nobody_s_connection(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    keeper: set[Stranger] = set()
    async with attacked(
        tmp_path, sample_models, nodes=1, router_options=("--max-connections", "500")
    ) as network:
        async with network.honest(connections=3, is_new=True) as seen:
            half = b"POST /v2/models/digits/infer HTTP/1.1\r\nHos"
            await crowd(network.address, [b"", half, b"GET /\n"] * 400, keeper)
            await network.until_still("capamesh_http_connections_hung_up")
            await crowd(network.address, [b"", half] * 200, keeper)
            await network.until_still("capamesh_http_connections_hung_up")
            metrics = await network.metrics()
        for stranger in list(keeper):
            stranger.transport.abort()
        assert seen.failures == {}
        assert metrics["capamesh_http_connections_hung_up"] > 0
        figures.at_most("connections of 500 allowed", metrics["capamesh_http_connections"], 500)


async def test_answers_that_nobody_reads_are_bounded(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    asks = (
        b'POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"a": [1]'
    ) * ASKS
    keeper: set[Stranger] = set()
    async with attacked(tmp_path, sample_models, nodes=1) as network:
        async with network.honest(connections=2, is_new=True) as seen:
            loop = asyncio.get_running_loop()
            for _ in range(20):
                own = socket.socket()
                own.setblocking(False)
                # the kernel takes few answers in its place: the router has the others, or does not make them
                own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await loop.sock_connect(own, network.address)
                _, stranger = await loop.create_connection(lambda: Stranger(asks, keeper), sock=own)
                stranger.transport.pause_reading()
            await network.until_still("capamesh_http_body_bytes")
        for stranger in list(keeper):
            stranger.transport.abort()
        assert seen.failures == {}
        figures.at_most(
            "router beside clients that do not read, MB",
            network.peak_bytes(network.router) / 1e6,
            300,
        )
