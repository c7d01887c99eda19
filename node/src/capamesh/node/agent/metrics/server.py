"""Serves the node's metrics: GET /metrics and nothing else. IO: aiohttp."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from capamesh.node.agent.metrics.exporter import CONTENT_TYPE, NodeTelemetry
from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from capamesh.node.agent.metrics.totals import AgentReadings, WorkerSample


@asynccontextmanager
async def serve_metrics(
    host: str,
    port: int,
    read: Callable[[], Iterable[WorkerSample]],
    agent: AgentReadings | None = None,
) -> AsyncGenerator[str, None]:
    """Serve until the context is left; yield the URL. `ConfigError`: cannot listen at `host:port`."""
    telemetry = NodeTelemetry(read, agent)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=telemetry.exposition(), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as exc:
            raise ConfigError(
                f"cannot serve metrics at {host}:{port}: {exc.strerror}; give another --metrics"
            ) from exc
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{runner.addresses[0][1]}/metrics"
    finally:
        await runner.cleanup()
