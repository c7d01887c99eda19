"""A refusal never outlives its cause, on real processes: crowds that leave, and a burst that is done in time."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from burst_client import burst, connect, request_of
from hostile import Figures, attacked
from machine_speed import times_slower

CROWD = 300
STAYS_S = 6.0
SHORT_S = 0.25
EVERY_S = 0.05
WATCHED_S = 3.0
HEALED_S = 1.0
BURST = 1500
MAGIKA = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [0] * 2048}


@pytest.mark.parametrize("policy", ["prequal", "p2c"])
async def test_requests_of_short_time_are_answered_once_the_crowd_before_them_has_left(
    tmp_path: Path, all_models: Path, figures: Figures, policy: str
) -> None:
    patient = json.dumps({"inputs": [MAGIKA]})
    hasty = json.dumps({"parameters": {"timeout": int(SHORT_S * 1e6)}, "inputs": [MAGIKA]})
    headers = {"X-Capamesh-Policy": policy}
    async with (
        attacked(tmp_path, all_models, nodes=1) as network,
        aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        url = f"{network.url}/v2/models/magika/infer"

        async def ask(body: str) -> int:
            async with session.post(url, data=body.encode()) as reply:
                await reply.read()
                return reply.status

        async def again_and_again() -> None:
            while True:
                await ask(patient)

        crowd = [asyncio.create_task(again_and_again()) for _ in range(CROWD)]
        done, _ = await asyncio.wait(crowd, timeout=STAYS_S)
        assert not done
        for one in crowd:
            one.cancel()
        await asyncio.wait(crowd)
        left_s = time.monotonic()
        answered_s: list[float] = []
        statuses: Counter[int] = Counter()

        async def hasten() -> None:
            status = await ask(hasty)
            statuses[status] += 1
            if status == 200:
                answered_s.append(time.monotonic() - left_s)

        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() < left_s + WATCHED_S:
                tasks.create_task(hasten())
                await asyncio.sleep(EVERY_S)
        first_s = min(answered_s, default=WATCHED_S)
        figures.at_most(
            f"healing, {policy}: s to the first answer", first_s, HEALED_S * times_slower()
        )
        figures.at_least(f"healing, {policy}: answered", statuses[200] / statuses.total(), 0.5)


async def test_no_request_of_a_burst_is_refused_that_is_done_in_time(
    tmp_path: Path, sample_models: Path
) -> None:
    async with attacked(tmp_path, sample_models, nodes=1) as network:
        connections = await connect(*network.address, BURST)
        request = request_of(2.0 * times_slower())
        for _ in range(2):
            statuses, refusal = await burst(connections, request)
            assert statuses == {200: BURST}, refusal
        for each in connections:
            each.close()
