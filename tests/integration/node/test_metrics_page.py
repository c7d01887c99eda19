"""The page that serves a node's metrics."""

from __future__ import annotations

import re

import aiohttp
import pytest

from capamesh.node.agent.metrics.exporter import CONTENT_TYPE
from capamesh.node.agent.metrics.server import serve_metrics
from capamesh.node.agent.metrics.totals import WorkerSample
from capamesh.protocol.errors import ConfigError

UP = WorkerSample(0, is_up=True, starts=4, models={})


async def test_page_serves_metrics_and_nothing_else() -> None:
    async with (
        serve_metrics("127.0.0.1", 0, lambda: [UP]) as url,
        aiohttp.ClientSession() as session,
    ):
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/metrics", url)
        async with session.get(url) as answer:
            assert (answer.status, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
            assert 'capamesh_node_worker_starts_total{device="0"} 4.0' in await answer.text()
        for path in ("", "metrics/x", "status"):
            async with session.get(url.removesuffix("metrics") + path) as answer:
                assert answer.status == 404
        async with session.post(url) as answer:
            assert answer.status == 405
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(ConfigError, match=f"at 127.0.0.1:{port}: .*; give another --metrics"):
            async with serve_metrics("127.0.0.1", port, list):
                pass
