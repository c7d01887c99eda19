from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable

import pytest
from polling import until

from capamesh.cli.local_cluster import LocalCluster

LIMIT_S = 120.0


@pytest.mark.smoke
async def test_request_that_is_still_being_sent_when_the_router_stops_is_answered(
    make_cluster: Callable[[int], LocalCluster],
) -> None:
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
    body = json.dumps({"inputs": [tensor]}).encode()
    async with make_cluster(1) as cluster:
        await cluster.wait_routable(1)
        host, port = cluster.http_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:100])
        await writer.drain()

        async def is_open() -> bool:
            return b"capamesh_open_requests 2.0" in await metrics(host, int(port))

        await until(is_open)
        cluster.router.signal(signal.SIGTERM)
        await until(lambda: cluster.router.status()["state"] == "draining")
        writer.write(body[100:])
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer
        writer.close()
        assert await asyncio.wait_for(cluster.router.wait(), LIMIT_S) == 0


async def metrics(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = await reader.read()
    writer.close()
    return text
