"""One member says to have ready what it serves nobody: nodes that have the model unloaded are asked to load it all the same."""

from __future__ import annotations

from pathlib import Path

import engine_models
import numpy as np
import pytest
from clusters import Cluster, nodes_at
from evil_nodes import LIES, EvilNode, offer_of, present
from hostile import Figures
from patience import until

from capamesh.client import AsyncClient
from capamesh.protocol.errors import DeadlineExceeded, InvalidRequest, PeerError
from capamesh.protocol.tensors import Datatype, TensorSpec

NAMES = ("big0", "big1", "big2", "big3")
IN = (TensorSpec("index", Datatype.INT64, (1,)),)
OUT = (TensorSpec("row", Datatype.FP32, (1, 64)),)
TIMEOUT_S = 3.0
"""Of the requests that may be lost."""
MOST_LOST = 3
LOAD_S = 60.0
"""The other models give way within 5 s; a load takes a moment."""


async def digests(cluster: Cluster, state: str) -> dict[str, str]:
    """Return the digests of the models that nodes say to be in `state`, by name."""
    models = [
        model for node in (await nodes_at(cluster.http_url)).values() for model in node["models"]
    ]
    return {model["name"]: model["digest"] for model in models if model["state"] == state}


async def lost_until_answered(cluster: Cluster, model: str) -> tuple[int, float]:
    """Ask until the model answers; return how many requests were lost, and what was answered."""
    lost = 0
    given = {"index": np.array([7], np.int64)}
    async with AsyncClient(cluster.http_url) as client:
        while True:
            timeout_s = TIMEOUT_S if lost < MOST_LOST else LOAD_S
            try:
                answer = await client.infer(model, given, timeout_s=timeout_s)
            except (PeerError, InvalidRequest, DeadlineExceeded):
                lost += 1
                if lost > MOST_LOST:
                    raise
            else:
                return lost, float(answer["row"][0, 0])


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(("run_failed",), id="fails all"),
        pytest.param(("never answers", "invalid"), id="the others", marks=pytest.mark.slow),
    ],
)
async def test_model_that_only_an_evil_member_says_to_have_ready_is_loaded_and_served(
    tmp_path: Path, figures: Figures, ways: tuple[str, ...]
) -> None:
    models = tmp_path / "models"
    for at, name in enumerate(NAMES):
        engine_models.save(engine_models.looking_up(at), models, name)
    options = ("--memory-limit", "75MiB")
    async with Cluster(tmp_path / "cluster", models, 1, node_options=options) as cluster:
        for way in ways:
            away: dict[str, str] = {}

            async def are_away(away: dict[str, str] = away) -> bool:
                away.update(await digests(cluster, "unloaded"))
                return bool(away)

            await until(are_away)
            name, digest = next(iter(away.items()))
            claim = offer_of(name, "1", digest, inputs=IN, outputs=OUT)
            evil = EvilNode(tmp_path / way, cluster.token(), claim)
            evil.answers = LIES[way]

            async def is_claimed(name: str = name) -> bool:
                return name in await digests(cluster, "ready")

            async with present(evil):
                await until(is_claimed)
                await until(lambda evil=evil: evil.links > 0)  # type: ignore[misc]
                lost, answer = await lost_until_answered(cluster, name)
                assert answer == NAMES.index(name)
                assert evil.asked > 0
                figures.at_most(f"a claimed model, {way}: requests lost", lost, MOST_LOST)
