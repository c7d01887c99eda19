"""The jobs of one router's process: when their store is opened, and what ends the start."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import NullLog, advert
from job_desk import PINNED, spec_with
from job_nodes import FakeNodes
from router_http import made_parts

from capamesh.protocol.errors import ConfigError, LinkLost
from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.fleet.view import FleetView
from capamesh.router.jobs.readers.pool import Use
from capamesh.router.jobs.readers.process import ReaderProcess
from capamesh.router.jobs.standing import NoRunner
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store import job_store
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.process import job_parts
from capamesh.router.process.job_parts import JobParts, OpenedStore, readers_of, require_jobs
from capamesh.router.requests.slices import Slices
from capamesh.router.settings import RouterSettings
from capamesh.router.telemetry import Telemetry

LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the disk as long as it takes."""
    monkeypatch.setattr(job_store, "PATIENCE_S", LIMIT_S)


def settings(folder: Path, **more: Any) -> RouterSettings:
    return RouterSettings(data_folder=folder, **more)


def parts(given: RouterSettings, log: NullLog | None = None) -> JobParts:
    fleet = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
    return JobParts(given, fleet, log or NullLog(), Slices())  # type: ignore[arg-type]


async def until_it_runs(made: JobParts) -> None:
    assert made.service is not None
    async with asyncio.timeout(LIMIT_S):
        while isinstance(made.service.runner, NoRunner):
            await asyncio.sleep(0)


def values(telemetry: Telemetry, name: str) -> dict[str, float]:
    """Return the values of a metric with one label, by that label's."""
    lines = telemetry.exposition().decode().splitlines()
    found = [line for line in lines if line.startswith(f"{name}{{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in found}


async def test_jobs_are_counted_by_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_parts, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(job_parts, "COUNT_EVERY_S", 0.0)
    made, other = parts(settings(tmp_path)), parts(settings(tmp_path))
    assert other.service is not None
    store = await other.service.store()
    telemetry = Telemetry()
    made.watch(telemetry)
    assert values(telemetry, "capamesh_jobs") == {}
    running = asyncio.create_task(made.count())
    job = await store.submit("t", spec_with(), PINNED)
    async with asyncio.timeout(LIMIT_S):
        while values(telemetry, "capamesh_jobs").get("planning") != 1.0:
            await asyncio.sleep(0)
    assert set(values(telemetry, "capamesh_jobs")) == set(JobState)
    await store.move(job[0].id, JobState.CANCELLED)
    async with asyncio.timeout(LIMIT_S):
        while values(telemetry, "capamesh_jobs")["cancelled"] != 1.0:
            await asyncio.sleep(0)
    assert values(telemetry, "capamesh_job_rows_total") == {"ok": 0.0, "bad": 0.0}
    running.cancel()
    await made.close()
    await other.close()


async def test_store_that_is_broken_meanwhile_is_told_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_parts, "LOOK_EVERY_S", 0.0)
    tries = 0
    whole = OpenedStore._opened

    def opened(self: OpenedStore) -> JobStore:
        nonlocal tries
        tries += 1
        if tries == 3:
            (tmp_path / "jobs.db").rmdir()  # somebody mends it
        return whole(self)

    monkeypatch.setattr(OpenedStore, "_opened", opened)
    log = NullLog()
    made = parts(settings(tmp_path), log)
    (tmp_path / "jobs.db").mkdir()
    running = asyncio.create_task(made.run(FakeNodes()))
    await until_it_runs(made)
    running.cancel()
    assert (tries, log.events) == (3, ["jobs_unreachable", "jobs_opened"])
    await made.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"jobs": "PLACE"}, "PLACE"),
        ({"jobs": "PLACE/file/jobs.db"}, "PLACE"),
        ({"jobs_places": ("relative",)}, "--jobs-place 'relative'"),
    ],
)
def test_store_that_cannot_be_opened_or_a_place_that_is_none_ends_the_start(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    (tmp_path / "file").touch()
    if "jobs" in options:
        options = {"jobs": options["jobs"].replace("PLACE", str(tmp_path))}
    given = settings(tmp_path, **options)
    for start in (parts, lambda each: require_jobs(each, NullLog())):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=said.replace("PLACE", str(tmp_path))):
            start(given)


async def test_router_without_jobs_opens_nothing(tmp_path: Path) -> None:
    given = settings(tmp_path, jobs=None, jobs_places=("relative",))
    made = parts(given)
    require_jobs(given, NullLog())  # type: ignore[arg-type]
    await made.run(FakeNodes())
    await made.close()
    assert made.service is None
    assert len(made.pages()) > 0
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - a coroutine has no other way


async def test_jobs_and_readers_never_reach_what_is_the_routers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: list[Path] = []

    def start(
        _memory_bytes: int, paths: Sequence[Path], on_sandbox: Callable[[str], None], _log: NullLog
    ) -> ReaderProcess:
        hidden.extend(paths)
        for holds in ("all", "all", "nothing"):
            on_sandbox(holds)
        raise ProcessLookupError

    monkeypatch.setattr(job_parts, "ReaderProcess", start)
    databases = {"jobs": str(tmp_path / "j.db"), "keys": str(tmp_path / "k.db")}
    secrets = {"token_file": "token", "tls_key": "tls.key", "cache_secret_file": "cache.secret"}
    given = settings(
        tmp_path / "data",
        jobs_places=(str(tmp_path),),
        **databases,
        **{name: tmp_path / file for name, file in secrets.items()},
    )
    made = parts(given)
    assert made.service is not None
    assert made.service.places.jobs_folder == tmp_path / "data" / "jobs"
    in_data = ("data/operator.key", "data/jobs/files/x")
    for path in (*in_data, "j.db", "j.db-wal", "k.db", "k.db-wal", *secrets.values()):
        with pytest.raises(Exception, match="--jobs-place"):
            made.service.places.source(str(tmp_path / path), "t")
    log = NullLog()
    with pytest.raises(ProcessLookupError):
        await readers_of(given, log).lend(Use.LOOK, "t").__aenter__()  # type: ignore[arg-type]
    assert {tmp_path / each for each in ("data", "j.db", "k.db-wal", *secrets.values())} <= {
        *hidden
    }
    assert log.events == ["input_reader_sandbox"] * 2
    await made.close()


def test_rules_or_a_policy_that_are_none_end_the_start_by_their_name(tmp_path: Path) -> None:
    missing = tmp_path / "no such rules.toml"
    for options, said in (
        ({"rules_file": missing}, f"the rules file {missing} does not exist"),
        ({"rules_file": tmp_path}, "cannot read the rules file"),  # a folder
        ({"policy": "best"}, "policy 'best' is unknown; known: affinity, cheapest, "),
    ):
        with pytest.raises(ConfigError, match=said):
            made_parts(tmp_path / "data", NullLog(), **options)  # type: ignore[arg-type]
        assert not (tmp_path / "data").exists()  # nothing is begun that is not finished


def test_verdict_on_a_node_is_logged(tmp_path: Path) -> None:
    log = NullLog()
    parts = made_parts(tmp_path, log)
    parts.members.apply([Joined(advert("A", "127.0.0.1:1"))])
    served = parts.balancer.served(ModelName("m"), ModelVersion("1"))
    served.failed(served.replicas[0], LinkLost("reset"), 0.1, parts.clocks.steady_s())
    parts.watch._judge()
    place = {"node": "", "peer": "A", "address": "127.0.0.1:1", "model": "", "version": ""}
    assert log.of("node_inhibited") == [{**place, "reason": "link_lost: reset"}]
