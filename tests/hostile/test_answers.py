"""Small requests with huge answers fill no router, and well-behaved clients go on meanwhile."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import aiohttp
import engine_models
from hostile import MIB, Figures, attacked

BODY = b'{"inputs":[{"name":"count","shape":[],"datatype":"INT64","data":[%d]}],"parameters":{"binary_data_output":true}}'
ELEMENTS = 60 * MIB // 8


async def test_small_requests_with_huge_answers_fill_no_router(
    tmp_path: Path, sample_models: Path, figures: Figures
) -> None:
    models = tmp_path / "models"
    shutil.copytree(sample_models, models)
    engine_models.save(engine_models.counting(), models, "counting")
    options = ("--body-budget-mib", "128", "--answer-budget-mib", "128")
    async with attacked(tmp_path / "network", models, nodes=2, router_options=options) as network:
        url = f"{network.http_url}/v2/models/counting/infer"
        turn = asyncio.Semaphore(6)
        statuses: list[int] = []

        async def ask(session: aiohttp.ClientSession, elements: int) -> str:
            async with turn, session.post(url, data=BODY % elements) as response:
                statuses.append(response.status)
                size_bytes = 0
                async for part in response.content.iter_any():
                    size_bytes += len(part)
                return str(size_bytes)

        async with network.honest(connections=2) as seen, aiohttp.ClientSession() as session:
            ended = await asyncio.gather(
                *(ask(session, ELEMENTS) for _ in range(12)), return_exceptions=True
            )
            async with session.post(url, data=BODY % (30 * MIB)) as response:
                too_large = response.status, await response.text()
            # and clients that do not read
            loop = asyncio.get_running_loop()
            deaf: list[asyncio.Transport] = []
            body = BODY % ELEMENTS
            head = b"POST /v2/models/counting/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            for _ in range(6):
                transport, _ = await loop.create_connection(asyncio.Protocol, *network.address)
                transport.pause_reading()
                transport.write(head % len(body) + body)
                deaf.append(transport)
            await network.until_still("capamesh_answer_bytes", "capamesh_http_body_bytes")
            for transport in deaf:
                transport.abort()
        assert seen.failures == []
        assert statuses == [200] * 12
        assert all(isinstance(size, str) and int(size) > 60 * MIB - 8 for size in ended)
        assert too_large[0] == 413
        assert "ask for fewer rows or outputs" in too_large[1]
        # 128 MiB that come from nodes, as much that clients have not read yet, and the router's own 90 MB
        figures.at_most(
            "router beside 18 answers of 60 MiB, MB", network.peak_bytes(network.router) / 1e6, 380
        )
