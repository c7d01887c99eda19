"""A model that ends its worker, and runs that never end: only their own callers notice."""

from __future__ import annotations

import asyncio
import platform
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import engine_models
import numpy as np
import pytest
from clusters import Cluster, nodes_at, peer_of
from direct_answers import digits_requests
from engine_link import ask, load_of, logged, node_link, replaced, row, until
from http_load import Load, Request, failures

from capamesh.cli.local_cluster import is_routable
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
X = row(1, 2, 3, 4)
HARMLESS, LETHAL = np.array([[5]]), np.array([[engine_models.LETHAL]])
traps = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"},
    reason="of the processors, only x86 traps when -2^63 is divided by -1",
)


async def refused(
    link: Link, model: str, inputs: dict[str, Any], *, is_job: bool = False
) -> CapameshError:
    """Ask and return the error that is the answer."""
    with pytest.raises(CapameshError) as caught:
        await ask(link, model, inputs, is_job=is_job)
    return caught.value


async def until_seen(
    cluster: Cluster, member: Member, *models: str, answered: int = 0
) -> dict[str, Any]:
    """Return a node as the router sees it, once it serves these models and has answered some since it was last dialled."""

    async def seen() -> dict[str, Any]:
        return (await nodes_at(cluster.http_url)).get(peer_of(member), {})

    return await until(
        seen,
        lambda node: (
            bool(node)
            and is_routable(node, models)
            and sum(link["answered"] for link in node["links"]) >= answered
        ),
    )


@asynccontextmanager
async def digits_asked(cluster: Cluster, models: Path) -> AsyncIterator[None]:
    """Ask for digits meanwhile, two at a time: each is answered, rightly, and by every node."""
    is_over = asyncio.Event()

    def asked() -> Iterator[Request]:
        count = 0
        while not is_over.is_set() or count < LEAST_REQUESTS:
            yield from digits_requests(models, 100)
            count += 100

    running = asyncio.create_task(Load(cluster.http_url).run(asked(), concurrency=2))
    try:
        yield
    finally:
        is_over.set()
        shots = await running
    assert failures(shots) == []
    assert {shot.node for shot in shots} == set(await nodes_at(cluster.http_url))


def states(node: dict[str, Any]) -> dict[str, str]:
    return {model["name"]: model["state"] for model in node["models"]}


@traps
async def test_request_that_ends_its_worker_harms_no_other_and_is_not_run_a_third_time(
    built_models: Path, tmp_path: Path
) -> None:
    common, with_lethal = tmp_path / "common", tmp_path / "with_lethal"
    for models in (common, with_lethal):
        shutil.copytree(built_models / "digits", models / "digits")
    engine_models.save(engine_models.adding(1), with_lethal, "adding")
    engine_models.save(engine_models.lethal(), with_lethal, "lethal")
    names = ("digits", "adding", "lethal")
    async with Cluster(tmp_path / "cluster", common, 2, node_options=()) as cluster:
        host = await cluster.add(models=with_lethal)
        await cluster.wait_routable(3)
        async with digits_asked(cluster, built_models):
            for _ in range(DEATHS):
                await until_seen(cluster, host, *names, answered=BUSY)
                (before,) = host.status()["worker_pids"]
                async with node_link(cluster, host) as link:
                    assert (await ask(link, "lethal", {"x": HARMLESS}))["y"].tolist() == [[0]]
                    assert isinstance(await refused(link, "lethal", {"x": LETHAL}), LinkLost)
                await replaced(host, before)
            await until_seen(cluster, host, *names)
            (before,) = host.status()["worker_pids"]
            async with node_link(cluster, host) as link:
                error = await refused(link, "lethal", {"x": LETHAL})
                assert isinstance(error, InvalidRequest)
                assert "this very request ended the process that ran it" in error.message
                assert (await ask(link, "lethal", {"x": HARMLESS}))["y"].tolist() == [[0]]
                assert (await ask(link, "adding", {"x": X}))["y"].tolist() == [[2, 3, 4, 5]]
            assert host.status()["worker_pids"] == [before]
            node = await until_seen(cluster, host, *names, answered=BUSY)
    assert states(node) == dict.fromkeys(names, "ready")
    (reported,) = logged(host, "worker_guarded")
    reason: str = reported["reason"]  # which names digits, too, where that ran at the same time
    assert reason.startswith("lethal/1")
    assert "ended its worker (killed by signal 8" in reason
    assert reason.endswith("2 times by the same request; it is not run again for 3600 s")


@traps
async def test_rows_of_a_job_that_end_six_workers_cost_no_model_its_place_and_no_caller_an_answer(
    built_models: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(built_models / "digits", models / "digits")
    engine_models.save(engine_models.lethal(), models, "lethal")
    async with Cluster(tmp_path / "cluster", models, 2, node_options=()) as cluster:
        host = cluster.nodes[0]
        await cluster.wait_routable(2)
        async with digits_asked(cluster, built_models):
            for number in range(BULK_DEATHS):
                rows = np.array([[engine_models.LETHAL], *[[at] for at in range(number)]])
                (before,) = host.status()["worker_pids"]
                async with node_link(cluster, host) as link:
                    lost = await refused(link, "lethal", {"x": rows}, is_job=True)
                    assert isinstance(lost, LinkLost)
                await replaced(host, before)
                await until_seen(cluster, host, "digits", "lethal")
            (before,) = host.status()["worker_pids"]
            async with node_link(cluster, host) as link:
                again = await refused(link, "lethal", {"x": rows}, is_job=True)
                assert isinstance(again, InvalidRequest)
                assert "this very request ended the process" in again.message
                for is_job in (False, True):
                    harmless = await ask(link, "lethal", {"x": HARMLESS}, is_job=is_job)
                    assert harmless["y"].tolist() == [[0]]
            assert host.status()["worker_pids"] == [before]
            node = await until_seen(cluster, host, "digits", "lethal")
    assert states(node) == dict.fromkeys(("digits", "lethal"), "ready")
    reasons = [line["reason"] for line in logged(host, "worker_guarded")]
    assert len(reasons) == BULK_DEATHS
    ends = "by a bulk request; it is not run again for 3600 s"
    assert all(each.endswith(ends) for each in reasons)


async def test_worker_of_a_run_that_takes_too_long_and_cannot_be_stopped_is_replaced_and_no_other_caller_notices(
    tmp_path: Path,
) -> None:
    models = tmp_path / "models"
    engine_models.save(engine_models.adding(1), models, "adding")
    engine_models.save(engine_models.deaf(), models, "deaf")
    options = ("--watchdog", f"{WATCHDOG_S}", "--threads", "1")
    too_long = f"more than the {WATCHDOG_S} s that this node allows one"
    async with (
        Cluster(tmp_path / "cluster", models, 2, node_options=options) as cluster,
        asyncio.TaskGroup() as tasks,
    ):
        await cluster.wait_routable(2)
        is_over = asyncio.Event()
        adding = tasks.create_task(added_until(is_over, cluster))
        node = cluster.nodes[0]
        (before,) = node.status()["worker_pids"]
        async with node_link(cluster, node) as link:
            side = np.array([engine_models.DEAF_SIDE])
            stuck = tasks.create_task(refused(link, "deaf", {"side": side}))
            await until(lambda: load_of(link, "deaf"), is_running)
            waiting = tasks.create_task(refused(link, "deaf", {"side": np.array([1])}))
            await until(lambda: load_of(link, "deaf"), lambda load: load.queued == 1)
            error = await stuck
            assert isinstance(error, RunFailed)
            assert too_long in error.message
            error = await waiting
            assert isinstance(error, ModelUnavailable)  # it did not run: another node may be asked
            assert "the worker is restarted" in error.message
            await link.wait_ended()
        status = await replaced(node, before)
        await until_seen(cluster, node, "deaf")
        is_over.set()
        await adding
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
    async with Cluster(tmp_path / "cluster", models, 1, node_options=options) as cluster:
        (node,) = cluster.nodes
        await until_seen(cluster, node, "late")
        async with AsyncClient(cluster.http_url) as client:
            assert (await client.infer("late", {"x": X}))["y"].tolist() == [[2, 3, 4, 5]]
        (bad,) = [one for one in node.status()["models"] if one["name"] == "endless"]
        assert bad["state"] == "failed"
        assert bad["reason"].startswith("endless/1 ended its worker (exited with status 70: ")
        assert (
            f"loading endless/1 has taken more than the {LOAD_LIMIT_S} s that this node allows (--load-limit), while loading),"
            " 3 times in a row while it was loaded; it is tried again after "
        ) in bad["reason"]


async def added_until(is_over: asyncio.Event, cluster: Cluster) -> None:
    """Ask for sums without a pause until it is over."""
    async with AsyncClient(cluster.http_url) as client:
        while not is_over.is_set():
            assert (await client.infer("adding", {"x": X}))["y"].tolist() == [[2, 3, 4, 5]]


def is_running(load: LoadReport) -> bool:
    return load.in_flight - load.queued == 1
