"""A job whose data cannot be had loses nothing meanwhile, and what its rows cost is kept whatever becomes of shards, jobs and routers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from job_nodes import FakeNodes
from job_runners import InlineStore, Rig, wall_s
from typing_extensions import override

from capamesh.router.jobs.errors import PlaceUnavailable
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.reader import RawRows, Reader
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.outputs.sink import LocalSink, Sink
from capamesh.router.jobs.running.runner import PRICES_S
from capamesh.router.jobs.spec import FailurePolicy
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import LEASE_S, Job, Part, Price, RowRange

ALL = {row: row * 2.0 for row in range(100)}
AWAY = "s3://bucket/x cannot be had now: the store answered 503"


class Store:
    """A place of data that can be away."""

    def __init__(self) -> None:
        self.is_away = False
        self.asked = 0
        self.at_once = self.most_at_once = 0

    def ask(self) -> None:
        self.asked += self.is_away
        if self.is_away:
            raise PlaceUnavailable(AWAY)


class FarReader(JsonlReader):
    """An input in that place."""

    def __init__(self, store: Store, path: Path) -> None:
        super().__init__(LocalFile(path))
        self._store = store

    @override
    def windows(self, rows: RowRange, columns: Sequence[str]) -> Iterator[RawRows]:
        self._store.ask()
        yield from super().windows(rows, columns)
        self._store.ask()


class FarSink(LocalSink):
    """Results in that place."""

    def __init__(self, store: Store, rig: Rig, job: Job) -> None:
        super().__init__(rig.folder, job.id)
        self._store = store

    @override
    def write(self, name: str, chunks: object) -> Part:
        self._store.ask()
        return super().write(name, chunks)  # type: ignore[arg-type]


async def kinds(rig: Rig, job: Job) -> list[str]:
    return [each.kind for each in await rig.store.events(job.id, 0, 100)]


@pytest.mark.parametrize("end", ["input", "output"])
async def test_job_waits_while_its_place_is_away_and_goes_on_by_itself(rig: Rig, end: str) -> None:
    store = Store()

    def reader_of(job: Job) -> Reader:
        return FarReader(store, Path(job.spec.input.url))

    def sink_of(job: Job) -> Sink:
        return FarSink(store, rig, job)

    if end == "input":
        rig.files.reader_of = reader_of
    else:
        rig.files.sink_of = sink_of
    job = await rig.planned(100, 5, failure=FailurePolicy(most_failures=2))
    store.is_away = True
    rig.runner()
    await asyncio.sleep(60)
    waiting = await rig.store.get(job.id, None)
    assert waiting.state is JobState.RUNNING
    asked = store.asked
    # more often than its shards may fail, and less and less often
    assert 4 < asked < 30
    store.is_away = False
    assert (await rig.ended(job)).state is JobState.COMPLETED
    assert await rig.results(job) == ALL
    assert (await kinds(rig, job)).count("waiting") == 1
    assert (await kinds(rig, job)).count("shard_failed") == 0


def priced(row_s: float = 0.001) -> FakeNodes:
    nodes = FakeNodes("a", "b", row_s=row_s)
    nodes.nodes["a"].price_per_million = 2.0
    nodes.nodes["b"].price_per_million = 50.0
    return nodes


async def price(rig: Rig, job: Job) -> Price:
    return (await rig.store.get(job.id, None)).price


def same(found: Price, rig: Rig) -> bool:
    """Return whether a price is that of all rows of which the answers were heard."""
    return (found.rows, found.total * 1e6) == (
        rig.nodes.answered_rows,
        pytest.approx(rig.nodes.paid),
    )


async def test_price_of_a_job_is_whole_when_it_has_ended(rig: Rig) -> None:
    rig.nodes = priced()
    job = await rig.planned(400)
    rig.runner()
    rig.runner()
    assert (await rig.ended(job)).state is JobState.COMPLETED
    found = await price(rig, job)
    assert same(found, rig)
    assert found.rows == 400
    assert 2.0 < (found.per_million or 0.0) < 50.0  # both nodes ran some


async def test_rows_of_a_router_that_was_slower_are_paid_for_too(rig: Rig) -> None:
    rig.nodes = priced()
    slow = InlineStore(rig.folder / "jobs.db")
    job = await rig.planned(40, 40)
    rig.runner(JobStore(slow, wall_s))
    rig.thread_s = 6.0  # from its rows to its part it takes longer than another router waits
    await asyncio.sleep(1.0)
    rig.runner()
    await rig.ended(job)
    await asyncio.sleep(2 * rig.thread_s + PRICES_S)
    found = await price(rig, job)
    assert same(found, rig)
    assert found.rows > 40
    slow.dispose()


async def test_calls_that_end_after_their_job_are_paid_for(rig: Rig) -> None:
    rig.nodes = priced(0.01)
    job = await rig.planned(4000, 1000)
    rig.runner()
    await asyncio.sleep(5.1)  # its router looks at the jobs twice a second
    await rig.store.move(job.id, JobState.CANCELLED)
    told = rig.nodes.answered_rows
    await asyncio.sleep(1.0 + PRICES_S)
    found = await price(rig, job)
    assert same(found, rig)
    assert found.rows > told  # some ended before this router knew of the end


async def test_router_that_dies_takes_the_price_of_no_committed_shard_with_it(rig: Rig) -> None:
    def done_rows() -> int:
        with rig.thread._database.engine.connect() as connection:
            asked = "SELECT coalesce(sum(done_rows), 0) FROM shard"
            return int(connection.exec_driver_sql(asked).scalar_one())

    rig.nodes = priced(0.01)
    lost = InlineStore(rig.folder / "jobs.db")
    job = await rig.planned(4000, 400)
    rig.runner(JobStore(lost, wall_s))
    await rig.until(lambda _job: done_rows() > 0, job)
    lost.is_silent = True  # from here on it is as one that is dead
    assert (await price(rig, job)).rows >= done_rows() > 0
    await asyncio.sleep(LEASE_S + 2.0)
    lost.dispose()


async def test_price_waits_for_a_store_that_fails(rig: Rig) -> None:
    rig.nodes = priced(0.01)
    job = await rig.planned(400, 400)
    runner = rig.runner()
    await asyncio.sleep(1.0)
    assert rig.nodes.answered_rows > 0
    await rig.store.move(job.id, JobState.CANCELLED)
    rig.thread.is_down = True
    await asyncio.sleep(30.0)
    rig.thread.is_down = False
    await asyncio.sleep(2 * PRICES_S)
    assert same(await price(rig, job), rig)
    assert runner._prices.paid(job.id).price == Price()  # and is forgotten then


async def test_place_that_hangs_takes_one_thread_and_not_all(rig: Rig) -> None:
    store = Store()
    rig.thread_s = 5.0  # a place that answers late, in threads that others wait for
    rig.files.reader_of = lambda job: FarReader(store, Path(job.spec.input.url))
    in_thread = rig.in_thread
    store.is_away = True

    async def counted(function: object) -> object:
        store.at_once += 1
        store.most_at_once = max(store.most_at_once, store.at_once)
        try:
            return await in_thread(function)  # type: ignore[arg-type]
        finally:
            store.at_once -= 1

    rig.in_thread = counted  # type: ignore[method-assign,assignment]
    job = await rig.planned(100, 5)
    rig.runner()
    await asyncio.sleep(30)
    store.most_at_once = 0
    await asyncio.sleep(60)
    assert store.most_at_once == 1
    store.is_away = False
    rig.thread_s = 0.0
    assert (await rig.ended(job)).state is JobState.COMPLETED
    assert await rig.results(job) == ALL
