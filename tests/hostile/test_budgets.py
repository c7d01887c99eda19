"""Strangers who hold connections and bodies without end, or ask for huge answers, take neither the router's memory nor anybody's place."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from pathlib import Path

import aiohttp
import engine_models
import pytest
from clusters import metrics_at
from hostile import MIB, Figures, attacked
from patience import until

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
COUNT = b'{"inputs":[{"name":"count","shape":[],"datatype":"INT64","data":[%d]}],"parameters":{"binary_data_output":true}}'
ELEMENTS = 60 * MIB // 8
ANSWERED = 'capamesh_requests_total{code="ok"'
HUNG_UP = "capamesh_http_connections_hung_up"


class Stranger(asyncio.Protocol):
    """Sends what it has, then nothing more, and holds on."""

    def __init__(self, data: bytes, there: set[Stranger]) -> None:
        self._data = data
        self._there = there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._there.add(self)
        transport.write(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._there.discard(self)


class Crowd(contextlib.ExitStack):
    """Strangers that are there until the context ends."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self._address = address
        self._there: set[Stranger] = set()
        self.callback(lambda: [each.transport.abort() for each in list(self._there)])

    async def come(self, bodies: list[bytes]) -> None:
        """Let a stranger come for each of these, some at a time."""
        loop = asyncio.get_running_loop()
        for at in range(0, len(bodies), 50):
            for data in bodies[at : at + 50]:
                with contextlib.suppress(OSError):
                    await loop.create_connection(
                        lambda data=data: Stranger(data, self._there),
                        *self._address,  # type: ignore[misc]
                    )
            await asyncio.sleep(0.02)

    async def come_deaf(self, data: bytes) -> None:
        """Let one come that reads nothing: the kernel takes few answers in its place, the router has the others, or does not make them."""
        loop, own = asyncio.get_running_loop(), socket.socket()
        own.setblocking(False)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(own, self._address)
        _, stranger = await loop.create_connection(lambda: Stranger(data, self._there), sock=own)
        stranger.transport.pause_reading()


@pytest.mark.smoke
async def test_thousand_unfinished_bodies_fill_no_memory_and_turn_nobody_away(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    part = bytes(256 * 1024)
    large = HEAD % (60 * MIB) + part
    chunks = CHUNKED + b"%x\r\n" % MIB + part
    tiny = CHUNKED + b"2\r\nab\r\n" * CHUNKS
    small = HEAD % 60_000 + bytes(100)
    nearly = HEAD % (60 * MIB) + bytes(60 * MIB - 1)
    async with attacked(tmp_path, sample_models, nodes=1) as network:

        async def has_answered(count: int) -> bool:
            samples = (await metrics_at(network.http_url)).items()
            return count <= sum(value for name, value in samples if name.startswith(ANSWERED))

        with Crowd(network.address) as crowd:
            async with network.honest(connections=3, is_new=True) as seen:
                await crowd.come([large, chunks, tiny, small] * (MANY // 4))
                await network.until_still(*ARRIVING)
                peak = network.peak_bytes(network.router)
                await crowd.come([nearly] * 6)
                await network.until_still(*ARRIVING)
                await until(lambda: has_answered(20))  # new clients, beside all of that
        assert seen.failures == []
        figures.at_most("router beside 1,000 unfinished bodies, MB", peak / 1e6, 300)
        peak = network.peak_bytes(network.router)
        figures.at_most("and six of 60 MiB but a byte, MB", peak / 1e6, 300)


async def test_strangers_that_are_idle_or_deaf_take_no_place_and_no_memory(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    ask = b'POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"a": [1]'
    half = b"POST /v2/models/digits/infer HTTP/1.1\r\nHos"
    options = ("--max-connections", "500")
    async with attacked(tmp_path, sample_models, nodes=1, router_options=options) as network:
        with Crowd(network.address) as crowd:
            async with network.honest(connections=3, is_new=True) as seen:
                await crowd.come([b"", half, b"GET /\n"] * 400)
                await network.until_still(HUNG_UP)
                await crowd.come([b"", half] * 200)
                await network.until_still(HUNG_UP)
                metrics = await metrics_at(network.http_url)
        assert seen.failures == []
        assert metrics[HUNG_UP] > 0
        figures.at_most("connections of 500 allowed", metrics["capamesh_http_connections"], 500)
        with Crowd(network.address) as crowd:
            async with network.honest(connections=2, is_new=True) as seen:
                for _ in range(20):
                    await crowd.come_deaf(ask * ASKS)
                await network.until_still("capamesh_http_body_bytes")
        assert seen.failures == []
        peak = network.peak_bytes(network.router)
        figures.at_most("router beside clients that do not read, MB", peak / 1e6, 300)


async def test_small_requests_with_huge_answers_fill_no_router(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    models = tmp_path / "models"
    shutil.copytree(sample_models, models)
    engine_models.save(engine_models.counting(), models, "counting")
    options = ("--body-budget-mib", "128", "--answer-budget-mib", "128")
    async with attacked(tmp_path / "network", models, nodes=2, router_options=options) as network:
        path, turn = "/v2/models/counting/infer", asyncio.Semaphore(6)

        async def ask(session: aiohttp.ClientSession) -> tuple[int, int]:
            """Return status and size of an answer, which is not kept."""
            async with turn, session.post(path, data=COUNT % ELEMENTS) as response:
                size_bytes = sum([len(part) async for part in response.content.iter_any()])
                return response.status, size_bytes

        async with (
            network.honest(connections=2) as seen,
            aiohttp.ClientSession(network.http_url) as session,
        ):
            answers = await asyncio.gather(*(ask(session) for _ in range(12)))
            async with session.post(path, data=COUNT % (30 * MIB)) as response:
                too_large = response.status, await response.text()
            head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            body = COUNT % ELEMENTS
            with Crowd(network.address) as crowd:
                for _ in range(6):
                    await crowd.come_deaf(head % (path.encode(), len(body)) + body)
                await network.until_still("capamesh_answer_bytes", "capamesh_http_body_bytes")
        assert seen.failures == []
        assert {status for status, _ in answers} == {200}
        assert min(size for _, size in answers) > 60 * MIB - 8
        assert too_large[0] == 413
        assert "ask for fewer rows or outputs" in too_large[1]
        # 128 MiB that come from nodes, as much that clients have not read yet, and the router's own 90 MB
        peak = network.peak_bytes(network.router)
        figures.at_most("router beside 18 answers of 60 MiB, MB", peak / 1e6, 380)
