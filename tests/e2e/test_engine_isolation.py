"""A model that ends its worker, and runs that never end: nobody but their own callers notices."""

from __future__ import annotations

import asyncio
import platform
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import engine_models
import numpy as np
import pytest
import pytest_asyncio
from cluster_load import Seen, digits_stream
from engine_link import ask, load_of, logged, node_link, replaced, row, until

from capamesh.cli.local_cluster import LocalCluster, is_routable
from capamesh.cli.member import Member
from capamesh.client import AsyncClient
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LinkLost,
    ModelUnavailable,
    RunFailed,
)
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.links.link import Link

LEAST_REQUESTS = 2000
DEATHS = 2
"""Of one request, after which it is not run again."""
BULK_DEATHS = 6
"""Of rows of a job, which ends no model's service."""
BUSY = 50
"""Answers after which a node is part of the network again."""
WATCHDOG_S = 5
"""The longest run of a node, in which a busy machine does all that is asked meanwhile."""
LOAD_LIMIT_S = 3
"""The longest load of a node, in which a busy machine loads a tiny model."""
LEAST_ADDED = 100
X = row(1, 2, 3, 4)
HARMLESS, LETHAL = np.array([[5]]), np.array([[engine_models.LETHAL]])


async def seen_of(client: AsyncClient, member: Member) -> dict[str, Any]:
    """Return a node as the router sees it, empty while it does not know it."""
    peer = member.status()["peer_id"]
    return next((node for node in await client.nodes() if node["peer_id"] == peer), {})


def is_busy(node: dict[str, Any]) -> bool:
    """Whether it has answered some since it was last dialled."""
    return sum(link["answered"] for link in node.get("links", [])) >= BUSY


async def digits_until(is_over: asyncio.Event, url: str, cases: Path) -> Seen:
    """Ask for digits, two at a time, until it is over; return what all of it saw."""
    total = Seen()
    while not is_over.is_set() or total.answered < LEAST_REQUESTS:
        seen = await digits_stream(url, cases, count=100, concurrency=2)
        total.answered += seen.answered
        total.failures += seen.failures
        total.wrong += seen.wrong
        total.nodes += seen.nodes
    return total


@pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"},
    reason="of the processors, only x86 traps when -2^63 is divided by -1",
)
async def test_request_that_ends_its_worker_harms_no_other_and_is_not_run_a_third_time(
    built_models: Path, tmp_path: Path
) -> None:
    common, with_lethal = tmp_path / "common", tmp_path / "with_lethal"
    for models in (common, with_lethal):
        shutil.copytree(built_models / "digits", models / "digits")
    engine_models.save(engine_models.adding(1), with_lethal, "adding")
    engine_models.save(engine_models.lethal(), with_lethal, "lethal")
    async with LocalCluster(tmp_path / "cluster", common, nodes=2) as cluster:
        cluster.models = with_lethal
        host = await cluster.add_node()
        await cluster.wait_routable(3)
        async with AsyncClient(cluster.http_url) as client, asyncio.TaskGroup() as tasks:
            is_over = asyncio.Event()
            cases = built_models.parent / "cases" / "digits.npz"
            streaming = tasks.create_task(digits_until(is_over, cluster.http_url, cases))
            for _ in range(DEATHS):
                assert (await client.infer("lethal", {"x": HARMLESS}))["y"].tolist() == [[0]]
                await until(lambda: seen_of(client, host), is_busy)
                (before,) = host.status()["worker_pids"]
                async with node_link(cluster, host) as link:
                    assert isinstance(await refused(link, "lethal", {"x": LETHAL}), LinkLost)
                await replaced(host, before)
                await until(
                    lambda: seen_of(client, host),
                    lambda node: bool(node) and is_routable(node, ["digits", "adding", "lethal"]),
                )
            (before,) = host.status()["worker_pids"]
            async with node_link(cluster, host) as link:
                error = await refused(link, "lethal", {"x": LETHAL})
                assert isinstance(error, InvalidRequest)
                assert "this very request ended the process that ran it" in error.message
                assert (await ask(link, "lethal", {"x": HARMLESS}))["y"].tolist() == [[0]]
                assert (await ask(link, "adding", {"x": X}))["y"].tolist() == [[2, 3, 4, 5]]
            assert host.status()["worker_pids"] == [before]
            node = await until(lambda: seen_of(client, host), is_busy)
            is_over.set()
            seen = await streaming
            assert set(seen.nodes) == {node["peer_id"] for node in await client.nodes()}
    assert (seen.failures, seen.wrong) == ([], [])
    assert seen.answered >= LEAST_REQUESTS
    assert {model["name"]: model["state"] for model in node["models"]} == dict.fromkeys(
        ("digits", "adding", "lethal"), "ready"
    )
    (reported,) = logged(host, "worker_guarded")
    reason: str = reported["reason"]  # which names digits, too, where that ran at the same time
    assert reason.startswith("lethal/1")
    assert "ended its worker (killed by signal 8" in reason
    assert reported["reason"].endswith(
        "2 times by the same request; it is not run again for 3600 s"
    )


@pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"},
    reason="of the processors, only x86 traps when -2^63 is divided by -1",
)
async def test_rows_of_a_job_that_end_six_workers_cost_no_model_its_place_and_nobody_an_answer(
    built_models: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(built_models / "digits", models / "digits")
    engine_models.save(engine_models.lethal(), models, "lethal")
    async with LocalCluster(tmp_path / "cluster", models, nodes=2) as cluster:
        host = cluster.nodes[0]
        await cluster.wait_routable(2)
        async with AsyncClient(cluster.http_url) as client, asyncio.TaskGroup() as tasks:
            is_over = asyncio.Event()
            cases = built_models.parent / "cases" / "digits.npz"
            streaming = tasks.create_task(digits_until(is_over, cluster.http_url, cases))
            for number in range(BULK_DEATHS):
                rows = np.array([[engine_models.LETHAL], *[[at] for at in range(number)]])
                (before,) = host.status()["worker_pids"]
                async with node_link(cluster, host) as link:
                    assert isinstance(
                        await refused(link, "lethal", {"x": rows}, is_job=True), LinkLost
                    )
                await replaced(host, before)
                await until(
                    lambda: seen_of(client, host),
                    lambda node: bool(node) and is_routable(node, ["digits", "lethal"]),
                )
            (before,) = host.status()["worker_pids"]
            async with node_link(cluster, host) as link:
                again = await refused(link, "lethal", {"x": rows}, is_job=True)
                assert isinstance(again, InvalidRequest)
                assert "this very request ended the process" in again.message
                assert (await ask(link, "lethal", {"x": HARMLESS}))["y"].tolist() == [[0]]
                harmless = await ask(link, "lethal", {"x": HARMLESS}, is_job=True)
                assert harmless["y"].tolist() == [[0]]
            assert host.status()["worker_pids"] == [before]
            is_over.set()
            seen = await streaming
            node = await seen_of(client, host)
    assert (seen.failures, seen.wrong) == ([], [])
    assert {model["name"]: model["state"] for model in node["models"]} == dict.fromkeys(
        ("digits", "lethal"), "ready"
    )
    reasons = [line["reason"] for line in logged(host, "worker_guarded")]
    assert len(reasons) == BULK_DEATHS
    assert all(
        each.endswith("by a bulk request; it is not run again for 3600 s") for each in reasons
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCluster]:
    """A router and two nodes whose runs may take some seconds."""
    folder = tmp_path_factory.mktemp("impatient")
    models = folder / "models"
    engine_models.save(engine_models.adding(1), models, "adding")
    engine_models.save(engine_models.looping(), models, "looping")
    engine_models.save(engine_models.deaf(), models, "deaf")
    options = ("--watchdog", f"{WATCHDOG_S}", "--threads", "1")
    async with LocalCluster(folder / "cluster", models, nodes=2, node_options=options) as running:
        await running.wait_routable(2)
        yield running


@pytest.mark.asyncio(loop_scope="module")
async def test_run_that_takes_too_long_is_stopped_and_those_behind_it_are_answered(
    impatient: LocalCluster,
) -> None:
    node = impatient.nodes[0]
    (before,) = node.status()["worker_pids"]
    async with node_link(impatient, node) as link, asyncio.TaskGroup() as tasks:
        endless = tasks.create_task(refused(link, "looping", turns(engine_models.FOREVER)))
        await until(lambda: load_of(link, "looping"), is_running)
        behind = tasks.create_task(ask(link, "looping", turns(3)))
        await until(lambda: load_of(link, "looping"), lambda load: load.queued == 1)
        assert (await ask(link, "adding", {"x": X}))["y"].tolist() == [[2, 3, 4, 5]]
        assert not behind.done()
        error = await endless
        assert isinstance(error, RunFailed)
        assert f"more than the {WATCHDOG_S} s that this node allows one" in error.message
        assert (await behind)["done"].tolist() == [3]
    assert node.status()["worker_pids"] == [before]


@pytest.mark.asyncio(loop_scope="module")
async def test_worker_with_a_run_that_cannot_be_stopped_is_replaced_and_no_other_caller_notices(
    impatient: LocalCluster,
) -> None:
    node = impatient.nodes[0]
    (before,) = node.status()["worker_pids"]
    async with AsyncClient(impatient.http_url) as client, asyncio.TaskGroup() as tasks:
        is_over = asyncio.Event()
        streaming = tasks.create_task(added_until(is_over, client))
        async with node_link(impatient, node) as link:
            side = np.array([engine_models.DEAF_SIDE])
            stuck = tasks.create_task(refused(link, "deaf", {"side": side}))
            await until(lambda: load_of(link, "deaf"), is_running)
            behind = tasks.create_task(refused(link, "deaf", {"side": np.array([1])}))
            await until(lambda: load_of(link, "deaf"), lambda load: load.queued == 1)
            error = await stuck
            assert isinstance(error, RunFailed)
            assert f"more than the {WATCHDOG_S} s that this node allows one" in error.message
            error = await behind
            assert isinstance(error, ModelUnavailable)  # it did not run: another node may be asked
            assert "the worker is restarted" in error.message
            await link.wait_ended()
        status = await replaced(node, before)
        await until(
            lambda: seen_of(client, node), lambda seen: bool(seen) and is_routable(seen, ["deaf"])
        )
        is_over.set()
        await streaming
    (worker,) = status["workers"]
    assert worker["starts"] == 2
    assert worker["last_down"].startswith("exited with status 70: a run has taken")


async def test_model_whose_warm_up_never_ends_holds_up_no_other_for_long(tmp_path: Path) -> None:
    models = tmp_path / "models"
    endless = '[[warm_up]]\nfiles = {turns = "forever.npy"}\n'
    engine_models.save(engine_models.looping(), models, "endless", manifest=endless)
    np.save(models / "endless" / "forever.npy", np.array([engine_models.FOREVER]))
    engine_models.save(engine_models.adding(1), models, "late")  # in the order of names
    options = ("--load-limit", f"{LOAD_LIMIT_S}", "--threads", "1")
    async with LocalCluster(tmp_path / "cluster", models, nodes=1, node_options=options) as cluster:
        (node,) = cluster.nodes
        async with AsyncClient(cluster.http_url) as client:
            await until(
                lambda: seen_of(client, node),
                lambda seen: bool(seen) and is_routable(seen, ["late"]),
            )
            assert (await client.infer("late", {"x": X}))["y"].tolist() == [[2, 3, 4, 5]]
        (bad,) = [one for one in node.status()["models"] if one["name"] == "endless"]
        assert bad["state"] == "failed"
        assert bad["reason"].startswith("endless/1 ended its worker (exited with status 70: ")
        assert (
            f"loading endless/1 has taken more than the {LOAD_LIMIT_S} s that this node allows (--load-limit), while loading),"
            " 3 times in a row while it was loaded; it is tried again after "
        ) in bad["reason"]


async def refused(
    link: Link, model: str, inputs: dict[str, Any], *, is_job: bool = False
) -> CapameshError:
    """Ask and return the error that is the answer."""
    with pytest.raises(CapameshError) as caught:
        await ask(link, model, inputs, is_job=is_job)
    return caught.value


async def added_until(is_over: asyncio.Event, client: AsyncClient) -> None:
    """Ask for sums without a pause until it is over, and for some in any case."""
    count = 0
    while not is_over.is_set() or count < LEAST_ADDED:
        assert (await client.infer("adding", {"x": X}))["y"].tolist() == [[2, 3, 4, 5]]
        count += 1


def turns(count: int) -> dict[str, Any]:
    return {"turns": np.array([count])}


def is_running(load: LoadReport) -> bool:
    return load.in_flight - load.queued == 1
