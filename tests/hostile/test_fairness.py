"""A node whose device becomes slow under callers that never pause keeps none of them waiting for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import engine_models
from chaos import slowed, worker_pids
from clusters import MODEL, request
from hostile import Figures, attacked
from http_load import Load, Request, Shot
from machine_speed import times_slower
from patience import until

TURNS = 2500
"""A run of 10 ms of a core of its own."""
CALLERS = 60
WARM = 300
"""Answers before the device becomes slow."""
SLOW_S = 6.0
"""As long as all of the callers would take, one after the other, on a machine with nothing else to do."""
LONGEST_S = 3.0
"""The longest that anybody may wait there, as many times as this machine is slower."""


async def test_device_at_a_tenth_of_its_speed_keeps_nobody_waiting(
    tmp_path: Path, figures: Figures
) -> None:
    models = tmp_path / "models"
    engine_models.save(engine_models.turning(TURNS), models, MODEL)
    is_over = asyncio.Event()

    def asked() -> Iterator[Request]:
        while not is_over.is_set():
            yield request(7, TURNS)

    async with attacked(tmp_path / "network", models, nodes=1) as network:
        load = Load(network.http_url, MODEL)

        def answered(from_s: float) -> list[Shot]:
            return [each for each in load.shots if each.is_answered and each.ended_s >= from_s]

        running = asyncio.create_task(load.run(asked(), concurrency=CALLERS, pause_s=0.02))
        await until(lambda: len(load.shots) > WARM + CALLERS)
        began_s = time.monotonic()
        with slowed(dict.fromkeys(worker_pids(network.nodes[0]), 0.1)):
            await asyncio.sleep(SLOW_S)
            slow = len(answered(began_s))
        # who waited has its answer by then
        await until(lambda: len(answered(began_s)) >= slow + 2 * CALLERS)
        slowest_s = max(each.latency_s for each in answered(began_s))
        is_over.set()
        shots = await running
    assert slow > 0
    assert {each.status for each in shots} <= {200, 503}
    slower = await asyncio.to_thread(times_slower)
    what = "slowest answer of a device at a tenth of its speed"
    figures.at_most(f"{what}, s", slowest_s, LONGEST_S * slower)
    all_s = CALLERS * SLOW_S / slow
    figures.at_most(f"{what}, in times of a queue of all", slowest_s / all_s, 0.75)
