"""A refusal never outlives its cause, on real processes: crowds that leave, and a burst that is done in time."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from hostile import Figures, attacked
from http_load import Load, digits_body, failures
from machine_speed import times_slower

CROWD = 300
STAYS_S = 6.0
SHORT_S = 0.25
WATCHED_S = 3.0
HEALED_S = 1.0
BURST = 1500
MAGIKA = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [0] * 2048}


@pytest.mark.parametrize("policy", ["prequal", "p2c"])
async def test_requests_of_short_time_are_answered_once_the_crowd_before_them_has_left(
    tmp_path: Path, built_models: Path, figures: Figures, policy: str
) -> None:
    patient = json.dumps({"inputs": [MAGIKA]}).encode(), b""
    timeout = {"parameters": {"timeout": int(SHORT_S * 1e6)}}
    hasty = json.dumps({**timeout, "inputs": [MAGIKA]}).encode(), b""
    async with attacked(tmp_path, built_models, nodes=1) as network:
        crowd = Load(network.http_url, "magika", X_Capamesh_Policy=policy)
        there = asyncio.create_task(crowd.run([patient] * 10**6, concurrency=CROWD))
        await asyncio.wait([there], timeout=STAYS_S)
        assert not there.done()
        there.cancel()
        await asyncio.wait([there])
        left_s = time.monotonic()
        later = Load(network.http_url, "magika", X_Capamesh_Policy=policy)
        shots = await later.run([hasty] * int(20 * WATCHED_S), rate=20.0)
    answered_s = [shot.ended_s - left_s for shot in shots if shot.is_answered]
    first_s = min(answered_s, default=WATCHED_S)
    figures.at_most(f"healing, {policy}: s to the first answer", first_s, HEALED_S * times_slower())
    figures.at_least(f"healing, {policy}: answered", len(answered_s) / len(shots), 0.5)


async def test_no_request_of_a_burst_is_refused_that_is_done_in_time(
    tmp_path: Path, sample_models: Path
) -> None:
    request = digits_body(2.0 * times_slower()), b'"label"'
    async with attacked(tmp_path, sample_models, nodes=1) as network:
        load = Load(network.http_url, is_explained=False)
        for _ in range(2):
            await load.connect(BURST)
            assert failures(await load.run([request] * BURST)) == []
