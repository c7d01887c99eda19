"""One member says to have ready what it serves nobody: nodes that have the model unloaded are asked to load it all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import engine_models
import numpy as np
import onnx
import pytest
from chaos_cluster import nodes_at
from engine_link import until
from evil_node import Answers, EvilNode, present
from hostile import Figures
from onnx import TensorProto, helper

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient
from capamesh.protocol.adverts import ModelOffer, ModelState
from capamesh.protocol.errors import (
    DeadlineExceeded,
    InvalidRequest,
    PeerError,
    RunFailed,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tensors import Datatype, TensorSpec

NAMES = ("big0", "big1", "big2", "big3")
ROWS, WIDTH = 69_632, 64
"""17 MiB of numbers."""
IN = (TensorSpec("index", Datatype.INT64, (1,)),)
OUT = (TensorSpec("row", Datatype.FP32, (1, WIDTH)),)
TIMEOUT_S = 3.0
"""Of the requests that may be lost."""
MOST_LOST = 3
LOAD_S = 60.0
"""The other models give way within 5 s; a load takes a moment."""


def looking_up(value: float) -> onnx.ModelProto:
    """Return a model that answers with a row of a table whose every number is `value`."""
    return engine_models._model(
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        [engine_models._value("index", TensorProto.INT64, [1])],
        [engine_models._value("row", TensorProto.FLOAT, [1, WIDTH])],
        {"table": np.full((ROWS, WIDTH), value, np.float32)},
    )


async def digests(cluster: LocalCluster, state: str) -> dict[str, str]:
    """Return the digests of the models that honest nodes say to be in `state`, by name."""
    nodes = await nodes_at(cluster.http_url)
    return {
        model["name"]: model["digest"]
        for node in nodes.values()
        for model in node["models"]
        if model["state"] == state
    }


async def lost_until_answered(cluster: LocalCluster, model: str) -> tuple[int, float]:
    """Ask until the model answers; return how many requests were lost, and what was answered."""
    lost = 0
    async with AsyncClient(cluster.http_url) as client:
        while True:
            timeout_s = TIMEOUT_S if lost < MOST_LOST else LOAD_S
            try:
                answer = await client.infer(
                    model, {"index": np.array([7], np.int64)}, timeout_s=timeout_s
                )
            except (PeerError, InvalidRequest, DeadlineExceeded):
                lost += 1
                if lost > MOST_LOST:
                    raise
            else:
                return lost, float(answer["row"][0, 0])


ANSWERS: dict[str, Answers] = {
    "fails all": lambda _: RunFailed("the run failed"),
    "blames all": lambda _: InvalidRequest("your request is wrong"),
    "never answers": lambda _: None,
}


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(("fails all",), id="fails all"),
        pytest.param(("never answers", "blames all"), id="the others", marks=pytest.mark.slow),
    ],
)
async def test_model_that_only_an_evil_member_says_to_have_ready_is_loaded_and_served(
    tmp_path: Path, figures: Figures, ways: tuple[str, ...]
) -> None:
    models = tmp_path / "models"
    for at, name in enumerate(NAMES):
        engine_models.save(looking_up(at), models, name)
    options = ("--memory-limit", "75MiB")
    async with LocalCluster(tmp_path / "cluster", models, nodes=1, node_options=options) as cluster:
        for what, answers in ((way, ANSWERS[way]) for way in ways):
            away = await until(lambda: digests(cluster, "unloaded"), lambda seen: len(seen) > 0)
            name, digest = next(iter(away.items()))
            claim = ModelOffer(
                ModelName(name), ModelVersion("1"), digest, ModelState.READY, "", IN, OUT
            )
            token = cluster._node_token().encode()
            evil = EvilNode(tmp_path / what.replace(" ", "-"), token, claim)
            evil.answers = answers
            async with present(evil):
                await until(lambda: digests(cluster, "ready"), lambda seen, name=name: name in seen)
                await until(_links(evil), lambda links: links > 0)
                lost, answer = await lost_until_answered(cluster, name)
                assert answer == NAMES.index(name)
                assert evil.asked > 0
                figures.at_most(f"a claimed model, {what}: requests lost", lost, MOST_LOST)


def _links(evil: EvilNode) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        await asyncio.sleep(0)
        return evil.links

    return count
