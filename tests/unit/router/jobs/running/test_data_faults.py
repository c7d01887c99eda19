"""A job whose data cannot be had goes on when they can, and loses nothing meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from job_desk import PINNED
from job_files import ANYWHERE
from job_runners import Rig, in_rig
from typing_extensions import override

from capamesh.router.jobs.errors import PlaceUnavailable
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.opening import open_reader
from capamesh.router.jobs.inputs.reader import RawRows, Reader
from capamesh.router.jobs.inputs.source import LocalFile
from capamesh.router.jobs.outputs.sink import LocalSink, Sink
from capamesh.router.jobs.spec import FailurePolicy, InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.values import Job, Part, RowRange

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
def test_job_waits_while_its_place_is_away_and_goes_on_by_itself(end: str) -> None:
    store = Store()

    async def scenario(rig: Rig) -> None:
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

    in_rig(scenario)


def test_place_that_hangs_takes_one_thread_and_not_all() -> None:
    async def scenario(rig: Rig) -> None:
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

    in_rig(scenario)


def test_broken_page_pauses_the_job_once_all_else_is_done() -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    async def scenario(rig: Rig) -> None:
        path = rig.folder / "in.parquet"
        table = pa.table({"v": np.arange(100, dtype=np.float32)})
        parquet.write_table(
            table,
            path,
            row_group_size=10,
            compression="none",
            use_dictionary=False,
            write_page_checksum=True,
        )
        data = bytearray(path.read_bytes())
        data[data.index(np.arange(42, 46, dtype=np.float32).tobytes())] ^= 1
        path.write_bytes(data)
        source = InputSpec(str(path), InputFormat.PARQUET, {"x": ("v",)})
        spec = JobSpec("m", source, OutputSpec(str(rig.folder)))
        job, _ = await rig.store.submit("t", spec, PINNED)
        assert await rig.store.claim_plan("planner") is not None
        reader = open_reader(source, "t", ANYWHERE)
        assert await rig.store.add_shards(job.id, 1, 0, list(reader.ranges(ShardLimits(5))))
        planned = await rig.store.finish_plan(job.id, 1, reader.fingerprint())
        assert planned is not None
        rig.runner()
        paused = await rig.until(lambda each: each.state is JobState.PAUSED, planned)
        assert f"cannot read {path}" in paused.reason
        assert "resume the job" in paused.reason
        done = await rig.results(job)
        assert done == {row: value for row, value in ALL.items() if not 40 <= row < 50}
        # what is done is the client's, whatever becomes of the rest
        await rig.store.move(job.id, JobState.CANCELLED)
        assert await rig.results(job) == done

    in_rig(scenario)
