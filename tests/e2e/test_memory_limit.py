"""A node whose models do not all fit into its memory limit: what serves goes on, what is asked for is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import engine_models
import numpy as np
from clusters import Cluster, nodes_at
from engine_link import until

from capamesh.client import AsyncClient
from capamesh.protocol.errors import DeadlineExceeded, ModelUnavailable

NAMES = ("big0", "big1", "big2", "big3")
TIMEOUT_S = 60.0
PATIENCE_S = 240.0
"""A model gives way after ten times as long as it took to load, a minute at most: on a busy machine that is longer than one
request may wait."""


async def answer_of(client: AsyncClient, model: str) -> float:
    answer = await client.infer(model, {"index": np.array([7], np.int64)}, timeout_s=TIMEOUT_S)
    return float(answer["row"][0, 0])


async def first_answer_of(client: AsyncClient, model: str) -> float:
    """Ask until there is room for the model; who comes too early is told to come again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await answer_of(client, model)
            except (ModelUnavailable, DeadlineExceeded):
                await asyncio.sleep(0.5)


@asynccontextmanager
async def used(client: AsyncClient, models: Sequence[str]) -> AsyncIterator[None]:
    """Ask these models again and again meanwhile; each answer must be right."""
    ended = asyncio.Event()

    async def use(model: str) -> None:
        while not ended.is_set():
            assert await answer_of(client, model) == NAMES.index(model)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        for model in models:
            tasks.create_task(use(model))
        try:
            yield
        finally:
            ended.set()


async def states(cluster: Cluster) -> dict[str, str]:
    """Return the state of each model by name, as the router knows it."""
    nodes = (await nodes_at(cluster.http_url)).values()
    return {model["name"]: model["state"] for node in nodes for model in node["models"]}


async def test_requested_model_replaces_an_unused_one_and_serving_models_go_on(
    tmp_path: Path,
) -> None:
    models = tmp_path / "models"
    for at, name in enumerate(NAMES):
        engine_models.save(engine_models.looking_up(at), models, name)
    options = ("--poll", "0.2", "--memory-limit", "75MiB")
    async with Cluster(tmp_path / "cluster", models, 1, node_options=options) as cluster:
        found = await until(
            lambda: states(cluster),
            lambda seen: sum(one in {"ready", "unloaded"} for one in seen.values()) == len(NAMES),
        )
        ready = [name for name in NAMES if found[name] == "ready"]
        away = [name for name in NAMES if found[name] == "unloaded"]
        assert 1 <= len(ready) <= 3
        async with AsyncClient(cluster.http_url) as client:
            for name in ready:
                assert await answer_of(client, name) == NAMES.index(name)
            await asyncio.sleep(1.5)  # several looks at the folder
            assert await states(cluster) == found
            # the fourth: nothing was unused for long enough yet, so that it waits, within its deadline or for the next
            async with used(client, ready[1:]):
                assert await first_answer_of(client, away[0]) == NAMES.index(away[0])
            # the router hears of both changes, in whichever order
            changed = found | {away[0]: "ready", ready[0]: "unloaded"}
            await until(lambda: states(cluster), lambda seen: seen == changed)
            # and back again
            assert await first_answer_of(client, ready[0]) == NAMES.index(ready[0])
