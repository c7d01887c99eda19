"""A node's models while it runs: files that come, change and go, and changes that a router asks for."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator

import engine_models
import pytest
import pytest_asyncio
from engine_link import ask, control, logged, node_link, row, until
from machine_speed import times_slower

from capamesh.cli.local_cluster import LocalCluster
from capamesh.client import AsyncClient
from capamesh.protocol.errors import ModelNotFound, ModelUnavailable, PeerError
from capamesh.protocol.links.calls import ControlAction

pytestmark = pytest.mark.asyncio(loop_scope="module")
FOUND_S = 5.0
"""A new file is left alone for 1 s, is found 0.2 s later at most, and loaded and told of in a few tenths; on a slower machine it takes longer."""
X = row(0, 0, 0, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watching(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    """A router and one node that looks at its folder five times a second and does what routers ask."""
    folder = tmp_path_factory.mktemp("watching")
    models = folder / "models"
    engine_models.save(engine_models.adding(1), models, "adding")
    options = ("--poll", "0.2", "--control")
    async with LocalCluster(folder / "cluster", models, nodes=1, node_options=options) as running:
        await running.wait_routable(1, ["adding"])
        yield running


async def added_by(client: AsyncClient, model: str) -> float | None:
    """Return what a model adds; None while it cannot be used."""
    try:
        return float((await client.infer(model, {"x": X}))["y"][0, 0])
    except (ModelNotFound, PeerError):
        return None


@pytest.mark.smoke
async def test_new_model_is_served_within_seconds_and_a_removed_one_is_not_found(
    watching: LocalCluster,
) -> None:
    async with AsyncClient(watching.http_url) as client:
        assert await added_by(client, "late") is None
        found_s = FOUND_S * await asyncio.to_thread(times_slower)
        engine_models.save(engine_models.adding(7), watching.models, "late")
        saved_s = time.monotonic()
        await until(lambda: added_by(client, "late"), lambda added: added == 7)
        assert time.monotonic() - saved_s < found_s
        engine_models.save(engine_models.adding(8), watching.models, "late", version=2)
        await until(lambda: added_by(client, "late"), lambda added: added == 8)

        async def versions() -> list[str]:
            return [entry.version for entry in await client.models() if entry.name == "late"]

        await until(versions, lambda known: known == ["1", "2"])
        shutil.rmtree(watching.models / "late")
        await until(lambda: added_by(client, "late"), lambda added: added is None)

        async def is_found() -> bool:
            try:
                await client.infer("late", {"x": X})
            except PeerError:
                return True  # the node has dropped it, and its advert is under way
            except ModelNotFound:
                return False
            return True

        await until(is_found, lambda found: not found)


async def test_model_is_replaced_under_load_without_a_failed_request(
    watching: LocalCluster,
) -> None:
    seen: list[float] = []

    async def ask_until_replaced(client: AsyncClient) -> None:
        while not seen or seen[-1] != 2:
            answer = await client.infer("adding", {"x": X})
            seen.append(float(answer["y"][0, 0]))

    async with AsyncClient(watching.http_url) as client:
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(ask_until_replaced(client))
            while len(seen) < 200:
                await asyncio.sleep(0.01)
            engine_models.save(engine_models.adding(2), watching.models, "adding")
        assert set(seen) == {1, 2}
        assert len(seen) > 200
        assert await added_by(client, "adding") == 2


async def test_broken_replacement_is_reported_of_and_the_model_goes_on(
    watching: LocalCluster,
) -> None:
    (node,) = watching.nodes
    file = watching.models / "adding" / "1" / "model.onnx"
    before = file.read_bytes()
    async with AsyncClient(watching.http_url) as client:
        known = await added_by(client, "adding")
        file.write_bytes(b"not a model")

        async def refusals() -> list[str]:
            refused = logged(node, "model_refused")
            return [entry["reason"] for entry in refused if entry["model"] == "adding"]

        # a file that is looked at while it is written is told of in other words, before
        await until(refusals, lambda told: any("not an ONNX file" in reason for reason in told))
        assert await added_by(client, "adding") == known
        file.write_bytes(before)


async def test_router_may_have_a_model_unloaded_and_loaded_where_the_operator_lets_it(
    watching: LocalCluster,
) -> None:
    (node,) = watching.nodes
    engine_models.save(engine_models.adding(3), watching.models, "optional")
    async with AsyncClient(watching.http_url) as client, node_link(watching, node) as link:
        await control(link, ControlAction.LOAD, "optional")  # at once, though it is new
        assert (await ask(link, "optional", {"x": X}))["y"].tolist() == [[3, 3, 3, 3]]
        await until(lambda: added_by(client, "optional"), lambda added: added == 3)

        await control(link, ControlAction.UNLOAD, "optional")
        with pytest.raises(ModelUnavailable, match="is not ready on this node"):
            await ask(link, "optional", {"x": X})

        async def shown() -> list[tuple[str, str]]:
            (seen,) = await client.nodes()
            return [(m["state"], m["reason"]) for m in seen["models"] if m["name"] == "optional"]

        await until(shown, lambda states: states == [("unloaded", "unloaded on request")])
        await control(link, ControlAction.LOAD, "optional")
        assert (await ask(link, "optional", {"x": X}))["y"].tolist() == [[3, 3, 3, 3]]
        with pytest.raises(ModelUnavailable, match="not in this node's folder"):
            await control(link, ControlAction.LOAD, "nonesuch")
