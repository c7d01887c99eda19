"""Spans on their way to a collector, over a real socket."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fleet_fakes import NullLog

from capamesh.router.telemetry.otlp import BATCH, OtlpExporter
from capamesh.router.telemetry.tracing import RequestTimes, Sampling, Tracer

FAILED = RequestTimes("m", "1", "link_lost", 1.0, 2.0)


class Collector:
    """A collector that keeps the bodies that it takes."""

    def __init__(self) -> None:
        self.status = 200
        self.url = ""
        self.bodies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def take(self, request: web.Request) -> web.Response:
        await self.bodies.put(await request.json())
        return web.Response(status=self.status)

    async def spans(self) -> int:
        body = await self.bodies.get()
        return len(body["resourceSpans"][0]["scopeSpans"][0]["spans"])


@pytest.fixture
def tracer() -> Tracer:
    return Tracer(Sampling(), rng=random.Random(1), clock=lambda: 3.0, wall_clock_ns=lambda: 10**18)


@asynccontextmanager
async def exporting(url: str, tracer: Tracer) -> AsyncIterator[OtlpExporter]:
    exporter = OtlpExporter(url, tracer, {"service.name": "r"}, NullLog(), every_s=0.0)  # type: ignore[arg-type]
    task = asyncio.create_task(exporter.run())
    try:
        yield exporter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector, application = Collector(), web.Application()
    application.add_routes([web.post("/v1/traces", collector.take)])
    async with TestServer(application) as server:
        collector.url = str(server.make_url("/v1/traces"))
        yield collector


async def until(exporter: OtlpExporter, *, sent: int, lost: int) -> None:
    while (exporter.sent, exporter.lost) != (sent, lost):
        await asyncio.sleep(0)


async def test_spans_reach_a_collector_in_batches(tracer: Tracer, collector: Collector) -> None:
    for _ in range(BATCH + 5):
        tracer.ended(FAILED)
    async with exporting(collector.url, tracer) as exporter:
        assert [await collector.spans(), await collector.spans()] == [BATCH, 5]
        await until(exporter, sent=BATCH + 5, lost=0)
        tracer.ended(FAILED)
        assert await collector.spans() == 1


async def test_spans_that_a_collector_refuses_are_lost_and_the_next_are_sent(
    tracer: Tracer, collector: Collector
) -> None:
    async with exporting(collector.url, tracer) as exporter:
        collector.status = 503
        tracer.ended(FAILED)
        await until(exporter, sent=0, lost=1)
        collector.status = 200
        tracer.ended(FAILED)
        await until(exporter, sent=1, lost=1)


async def test_collector_that_is_not_there_stops_nothing(tracer: Tracer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        async with exporting(f"http://127.0.0.1:{taken.getsockname()[1]}/", tracer) as exporter:
            tracer.ended(FAILED)
            await until(exporter, sent=0, lost=1)


async def test_error_that_no_collector_should_cause_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tracer: Tracer, collector: Collector
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    async with exporting(collector.url, tracer) as exporter:
        with monkeypatch.context() as patch:
            patch.setattr("aiohttp.ClientSession.post", broken)
            tracer.ended(FAILED)
            await until(exporter, sent=0, lost=1)
        tracer.ended(FAILED)
        assert await collector.spans() == 1
