"""Nodes' models while they run: files that come, change and go, and changes that a router and Triton's own clients ask for."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import engine_models
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from clusters import Cluster
from engine_link import logged, row
from patience import until
from tritonclient.utils import InferenceServerException

from capamesh.client import AsyncClient
from capamesh.protocol.errors import ModelNotFound, PeerError

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
X = row(0, 0, 0, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watching(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A router and two nodes that look at their folder five times a second and do what routers ask."""
    folder = tmp_path_factory.mktemp("watching")
    models = folder / "models"
    engine_models.save(engine_models.adding(1), models, "adding")
    options = ("--poll", "0.2", "--control")
    async with Cluster(folder / "cluster", models, 2, node_options=options) as running:
        await running.wait_routable(2, ["adding"])
        yield running


async def added_by(client: AsyncClient, model: str) -> float | None:
    """Return what a model adds; None while it cannot be used."""
    with suppress(ModelNotFound, PeerError):
        return float((await client.infer(model, {"x": X}))["y"][0, 0])
    return None


async def until_added(client: AsyncClient, model: str, value: float | None) -> None:
    """Wait until a model adds so much, or cannot be used."""

    async def is_so() -> bool:
        return await added_by(client, model) == value

    await until(is_so)


@pytest.mark.smoke
async def test_new_model_is_served_and_a_removed_one_is_not_found(
    watching: Cluster,
) -> None:
    async with AsyncClient(watching.http_url) as client:
        assert await added_by(client, "late") is None
        engine_models.save(engine_models.adding(7), watching.models, "late")
        await until_added(client, "late", 7)
        engine_models.save(engine_models.adding(8), watching.models, "late", version=2)
        await until_added(client, "late", 8)

        async def versions() -> list[str]:
            return [entry.version for entry in await client.models() if entry.name == "late"]

        async def has_both() -> bool:
            return await versions() == ["1", "2"]

        await until(has_both)
        shutil.rmtree(watching.models / "late")

        async def is_lost() -> bool:
            try:
                await client.infer("late", {"x": X})
            except ModelNotFound:
                return True
            except PeerError:
                return False  # a node has dropped it, and its advert is under way
            return False

        await until(is_lost)


async def test_model_is_replaced_under_load_without_a_failed_request_and_not_by_a_broken_one(
    watching: Cluster,
) -> None:
    seen: list[float] = []
    file = watching.models / "adding" / "1" / "model.onnx"

    async def ask_until_replaced(client: AsyncClient) -> None:
        while not seen or seen[-1] != 2:
            answer = await client.infer("adding", {"x": X})
            seen.append(float(answer["y"][0, 0]))

    async with AsyncClient(watching.http_url) as client:
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(ask_until_replaced(client))
            await until(lambda: len(seen) >= 200)
            engine_models.save(engine_models.adding(2), watching.models, "adding")
        assert set(seen) == {1, 2}

        def all_have(event: str, count: int, words: str) -> bool:
            """Whether each node has logged an event of the model so often, with these words."""
            found = [[str(entry) for entry in logged(node, event)] for node in watching.nodes]
            return all(sum(words in entry for entry in entries) >= count for entries in found)

        # a router that has just begun serves none of two files of which one node each has one
        await until(lambda: all_have("model_ready", 2, "'adding'"))
        await asyncio.to_thread(file.write_bytes, b"not a model")
        # a file that is looked at while it is written is told of in other words, before
        await until(lambda: all_have("model_refused", 1, "not an ONNX file"))
        assert await added_by(client, "adding") == 2


def wait_for(is_so: Callable[[], bool]) -> None:
    """Return once something is so: the router answers two seconds after the change, if the nodes have not told of it before."""
    asyncio.run(until(is_so))


def by_http(address: str, headers: dict[str, str]) -> None:
    rows = triton_http.InferInput("x", [1, 4], "FP32")
    rows.set_data_from_numpy(np.zeros((1, 4), np.float32))
    with triton_http.InferenceServerClient(address) as client:

        def states() -> Any:
            index = client.get_model_repository_index()
            return {one["state"] for one in index if one["name"] == "asked"}

        wait_for(lambda: client.is_model_ready("asked"))
        client.unload_model("asked", headers=headers)
        wait_for(lambda: states() == {"UNAVAILABLE"})
        with pytest.raises(InferenceServerException, match="unloaded on request"):
            client.infer("asked", [rows])
        client.load_model("asked", headers=headers)
        wait_for(lambda: client.is_model_ready("asked"))
        client.infer("asked", [rows])


def by_grpc(address: str, headers: dict[str, str]) -> None:
    with triton_grpc.InferenceServerClient(address) as client:
        client.unload_model("asked", headers=headers)
        wait_for(lambda: not client.is_model_ready("asked"))
        client.load_model("asked", headers=headers)
        wait_for(lambda: client.is_model_ready("asked"))


@pytest.mark.smoke
async def test_models_are_unloaded_and_loaded_on_all_nodes_by_tritons_clients(
    watching: Cluster,
) -> None:
    engine_models.save(engine_models.adding(4), watching.models, "asked")
    await watching.wait_routable(2, ["asked"])
    address = watching.http_url.removeprefix("http://")
    (key,) = watching.headers.values()
    await asyncio.to_thread(by_http, address, {"Authorization": key})
    await asyncio.to_thread(by_grpc, address, {"authorization": key})
