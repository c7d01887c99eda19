"""One node under callers that never pause: a slow device, urgent requests, tenants of different weights."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import engine_models
from chaos import slowed, worker_pids
from chaos_cluster import turning
from hostile import AttackedNetwork, Figures, attacked
from machine_speed import times_slower

SLOW_TURNS, QUICK_TURNS = 2500, 500
"""A run of 10 ms, and of 2 ms, of a core of its own."""
ENOUGH = 600
"""Answers, so that a few more or less do not matter (at one row at a time, 3:1 is exact to some ten)."""
SLOW_S = 6.0
"""As long as all of the callers would take, one after the other, on a machine with nothing else to do."""
LONGEST_S = 3.0
"""The longest that anybody may wait there, as many times as this machine is slower."""
PAUSE_S = 0.02
"""Before who was refused comes again, whatever it was told."""


@dataclass(slots=True)
class Callers:
    """So many that ask for one row at a time, each again as soon as it was answered."""

    count: int
    tenant: str = ""
    priority: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0
    """Of those that were answered."""

    def forget(self) -> None:
        """Count from now on."""
        self.statuses.clear()
        self.slowest_s = 0.0

    @property
    def refused(self) -> float:
        """The part that was not answered."""
        return 1.0 - self.statuses[200] / max(1, self.statuses.total())

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> None:
        parameters = f'"parameters":{{"priority":{self.priority}}},' if self.priority else ""
        body = f'{{{parameters}"inputs":[{{"name":"index","datatype":"INT64","shape":[1],"data":[7]}}]}}'
        headers = {"X-Capamesh-Tenant": self.tenant} if self.tenant else {}
        while True:
            began_s = time.monotonic()
            async with session.post(url, data=body.encode(), headers=headers) as reply:
                await reply.read()
            self.statuses[reply.status] += 1
            if reply.status == 200:
                self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            else:
                await asyncio.sleep(PAUSE_S)

    async def run(self, network: AttackedNetwork) -> None:
        """Ask until cancelled."""
        url = f"{network.url}/v2/models/turning/infer"
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(self.count):
                tasks.create_task(self._ask(session, url))


async def answered(count: int, *callers: Callers) -> None:
    """Wait until they have had so many answers together."""
    async with asyncio.timeout(120):
        while sum(each.statuses[200] for each in callers) < count:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def asking(network: AttackedNetwork, *callers: Callers) -> AsyncIterator[None]:
    """Let all of them ask meanwhile."""
    running = [asyncio.create_task(each.run(network)) for each in callers]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in outcomes), outcomes


def models_in(folder: Path, *, turns: int, manifest: str = "") -> Path:
    """Return a models folder with `turning` alone."""
    models = folder / "models"
    engine_models.save(turning(turns), models, "turning", manifest=manifest)
    return models


async def test_device_at_a_tenth_of_its_speed_keeps_nobody_waiting(
    tmp_path: Path, figures: Figures
) -> None:
    callers = Callers(60)
    models = models_in(tmp_path, turns=SLOW_TURNS)
    async with (
        attacked(tmp_path / "network", models, nodes=1) as network,
        asking(network, callers),
    ):
        await answered(ENOUGH // 2, callers)
        callers.forget()
        with slowed(dict.fromkeys(worker_pids(network.nodes[0]), 0.1)):
            await asyncio.sleep(SLOW_S)
            slow = Counter(callers.statuses)
        await answered(slow[200] + 2 * callers.count, callers)  # who waited has its answer by now
    assert 0 < slow[200] < callers.statuses[200]
    slower = await asyncio.to_thread(times_slower)
    figures.at_most(
        "slowest answer of a device at a tenth of its speed, s",
        callers.slowest_s,
        LONGEST_S * slower,
    )
    all_s = callers.count * SLOW_S / slow[200]
    figures.at_most(
        "slowest answer of a device at a tenth of its speed, in times of a queue of all",
        callers.slowest_s / all_s,
        0.75,
    )
    assert set(callers.statuses) <= {200, 503}


async def test_urgent_requests_beside_usual_ones_that_fill_the_node_are_not_refused(
    tmp_path: Path, figures: Figures
) -> None:
    models = models_in(tmp_path, turns=QUICK_TURNS, manifest="max_queue = 16\ninstances = 1\n")
    async with attacked(tmp_path / "network", models, nodes=1) as network:
        for usual in (14, 60):
            urgent, others = Callers(14, priority=1), Callers(usual)
            async with asking(network, urgent, others):
                await answered(ENOUGH // 2, urgent)
                urgent.forget()
                await answered(2 * ENOUGH, urgent)
            figures.at_most(
                f"urgent requests refused beside {usual} usual callers", urgent.refused, 0.01
            )


async def test_tenants_are_answered_by_their_weights_whatever_their_callers_do(
    tmp_path: Path, figures: Figures
) -> None:
    models = models_in(tmp_path, turns=QUICK_TURNS, manifest="max_queue = 16\ninstances = 1\n")
    rules = tmp_path / "rules.toml"
    rules.write_text('["*"]\ntenants = { gold = 3, iron = 1 }\n')
    options = ("--rules", str(rules))
    async with attacked(tmp_path / "network", models, nodes=1, router_options=options) as network:
        for count in (30, 100):
            gold, iron = Callers(count, "gold"), Callers(count, "iron")
            async with asking(network, gold, iron):
                await answered(ENOUGH, gold, iron)
                for each in (gold, iron):
                    each.forget()
                await answered(ENOUGH, gold, iron)
            ratio = gold.statuses[200] / max(1, iron.statuses[200])
            what = f"3:1 with {count} callers each that do not wait, ratio"
            figures.at_most(what, ratio, 3.3)
            figures.at_least(what, ratio, 2.7)
