"""Nodes' models while they run: files that come, change and go, and changes that a router and Triton's own clients ask for."""

from __future__ import annotations

import asyncio
import shutil
import time
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
from engine_link import ask, control, logged, node_link, row
from machine_speed import times_slower
from polling import until
from tritonclient.utils import InferenceServerException

from capamesh.client import AsyncClient
from capamesh.protocol.errors import ModelNotFound, ModelUnavailable, PeerError
from capamesh.protocol.links.calls import ControlAction

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FOUND_S = 5.0
"""A new file is left alone for 1 s, is found 0.2 s later at most, and loaded and told of in a few tenths; on a slower machine it takes longer."""
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
async def test_new_model_is_served_within_seconds_and_a_removed_one_is_not_found(
    watching: Cluster,
) -> None:
    async with AsyncClient(watching.http_url) as client:
        assert await added_by(client, "late") is None
        found_s = FOUND_S * await asyncio.to_thread(times_slower)
        engine_models.save(engine_models.adding(7), watching.models, "late")
        saved_s = time.monotonic()
        await until_added(client, "late", 7)
        assert time.monotonic() - saved_s < found_s
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
        await asyncio.to_thread(file.write_bytes, b"not a model")

        def is_refused() -> bool:
            # a file that is looked at while it is written is told of in other words, before
            refused = logged(watching.nodes[0], "model_refused")
            return any("not an ONNX file" in entry["reason"] for entry in refused)

        await until(is_refused)
        assert await added_by(client, "adding") in {1, 2}


async def test_router_may_have_a_model_unloaded_and_loaded_where_the_operator_lets_it(
    watching: Cluster,
) -> None:
    node = watching.nodes[0]
    engine_models.save(engine_models.adding(3), watching.models, "optional")
    async with node_link(watching, node) as link:
        await control(link, ControlAction.LOAD, "optional")  # at once, though it is new
        await control(link, ControlAction.UNLOAD, "optional")
        with pytest.raises(ModelUnavailable, match="is not ready on this node"):
            await ask(link, "optional", {"x": X})
        await control(link, ControlAction.LOAD, "optional")
        assert (await ask(link, "optional", {"x": X}))["y"].tolist() == [[3, 3, 3, 3]]
        with pytest.raises(ModelUnavailable, match="not in this node's folder"):
            await control(link, ControlAction.LOAD, "nonesuch")


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
    address = watching.http_url.removeprefix("http://")
    (key,) = watching.headers.values()
    await asyncio.to_thread(by_http, address, {"Authorization": key})
    await asyncio.to_thread(by_grpc, address, {"authorization": key})
