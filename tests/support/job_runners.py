"""Routers that run jobs in virtual time: a real store in this thread, real files, nodes that are made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from fleet_fakes import NullLog
from job_desk import PINNED
from job_files import ANYWHERE, write_jsonl
from job_nodes import FakeNodes
from typing_extensions import override

from capamesh.router.jobs.errors import JobsUnavailable
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.opening import open_planned, open_reader
from capamesh.router.jobs.inputs.reader import Reader
from capamesh.router.jobs.outputs.sink import LocalSink, Sink
from capamesh.router.jobs.planner import Planner
from capamesh.router.jobs.readers.input_reading import InThread, ReadHere
from capamesh.router.jobs.running.runner import Runner
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import ENDED
from capamesh.router.jobs.store.database import Change, open_database
from capamesh.router.jobs.store.group_commit import Operation, StoreThread, Waiting, run_group
from capamesh.router.jobs.store.job_store import JobStore
from capamesh.router.jobs.values import Job

_Result = TypeVar("_Result")
BASE_S = 1_800_000_000.0


def wall_s() -> float:
    return BASE_S + asyncio.get_running_loop().time()


class InlineStore(StoreThread):
    """Runs each operation at once, in the thread that asks; some fail, and some do not answer."""

    def __init__(self, path: Path) -> None:
        self.skew_s = 0.0
        """Seconds by which the store's clock was set forward."""
        super().__init__(open_database(str(path), lambda: wall_s() + self.skew_s))
        self.is_down = False
        self.is_silent = False
        self.loses_answers = False
        """True if what is asked is done and the answer is lost."""

    @override
    def put(
        self, operation: Operation[_Result], change: Change = Change.LASTING
    ) -> Future[_Result]:
        future: Future[_Result] = Future()
        if self.is_silent:
            return future
        if self.is_down:
            raise JobsUnavailable("the store is down")
        future.set_running_or_notify_cancel()
        run_group(self._database, (Waiting(operation, future, change),))
        if self.loses_answers:
            raise JobsUnavailable("the answer is lost")
        return future

    def dispose(self) -> None:
        self._database.engine.dispose()


class Files(ReadHere):
    """Local files, of which a test may take the place of some."""

    def __init__(self, folder: Path, in_thread: InThread, clock: Callable[[], float]) -> None:
        super().__init__(ANYWHERE, in_thread, clock)
        self.folder = folder
        self.reader_of: Callable[[Job], Reader] = lambda job: open_planned(job, ANYWHERE)
        self.sink_of: Callable[[Job], Sink] = lambda job: LocalSink(folder, job.id)
        self.opened = 0

    @override
    def reader(self, job: Job) -> Reader:
        self.opened += 1
        return self.reader_of(job)

    def sink(self, job: Job) -> Sink:
        return self.sink_of(job)


class Rig:
    """A store, files, nodes, and any number of routers."""

    def __init__(self, folder: Path, nodes: FakeNodes | None = None) -> None:
        self.folder = folder
        self.thread = InlineStore(folder / "jobs.db")
        self.store = JobStore(self.thread, wall_s)
        self.nodes = nodes or FakeNodes()
        self.files = Files(folder, self.in_thread, lambda: asyncio.get_running_loop().time())  # type: ignore[arg-type] - a coroutine is awaitable
        self.log = NullLog()
        self.thread_s = 0.0
        """Seconds that reading and writing take."""
        self.routers: list[asyncio.Task[None]] = []
        self.runners: list[Runner] = []

    async def in_thread(self, function: Callable[[], _Result]) -> _Result:
        await asyncio.sleep(self.thread_s)
        return function()

    def runner(self, store: JobStore | None = None) -> Runner:
        """Start a router and return what it runs jobs with."""
        clock = asyncio.get_running_loop().time
        store = store or self.store
        name = f"router {len(self.routers)}"
        runner = Runner(
            store,
            Planner(store, self.files),
            self.files,
            self.files.sink,
            self.nodes,
            owner=name,
            clock=clock,
            wall_s=wall_s,
            in_thread=self.in_thread,  # type: ignore[arg-type] - a coroutine is awaitable
            log=self.log,  # type: ignore[arg-type] - it has all that is used
        )
        self.runners.append(runner)
        self.routers.append(asyncio.create_task(runner.run()))
        return runner

    async def planned(
        self,
        rows: int | list[Any] = 100,
        shard_rows: int = 25,
        *,
        tenant: str = "t",
        **words: Any,
    ) -> Job:
        """Return a job that runs, of lines with numbers from 0 on, or with these values."""
        values = list(range(rows)) if isinstance(rows, int) else rows
        made = len(list(self.folder.glob("in-*.jsonl")))
        path = write_jsonl(self.folder / f"in-{made}.jsonl", [{"v": each} for each in values])
        source = InputSpec(str(path), InputFormat.JSONL, {"x": ("v",)})
        spec = JobSpec("m", source, OutputSpec(str(self.folder)), **words)
        job, _ = await self.store.submit(tenant, spec, PINNED)
        taken = await self.store.claim_plan("planner")
        assert taken is not None
        reader = open_reader(source, tenant, ANYWHERE)
        ranges = list(reader.ranges(ShardLimits(shard_rows)))
        assert await self.store.add_shards(job.id, 1, 0, ranges)
        done = await self.store.finish_plan(job.id, 1, reader.fingerprint())
        assert done is not None
        return done

    async def until(self, is_so: Callable[[Job], bool], job: Job, most_s: float = 600.0) -> Job:
        async with asyncio.timeout(most_s):
            while True:
                now = await self.store.get(job.id, None)
                if is_so(now):
                    return now
                await asyncio.sleep(0.1)

    async def ended(self, job: Job, most_s: float = 600.0) -> Job:
        return await self.until(lambda each: each.state in ENDED, job, most_s)

    async def results(self, job: Job) -> dict[int, float]:
        """Return the results by row, each of which there must be once, from the parts that manifests name."""
        sink = LocalSink(self.folder, job.id)
        found: dict[int, float] = {}
        for _, rows, manifest in await self.store.manifests(job.id, 0, 1000):
            if manifest.part is None:
                continue
            for line in sink.read(manifest.part).splitlines():
                row = json.loads(line)
                assert row["row"] not in found
                assert rows.first_row <= row["row"] < rows.first_row + rows.rows
                found[row["row"]] = row["outputs"]["y"]
        return found

    async def close(self) -> None:
        """Stop all routers and look that nothing is left of their work."""
        for router in self.routers:
            router.cancel()
        await asyncio.gather(*self.routers, return_exceptions=True)
        await asyncio.sleep(0)
        self.thread.dispose()
        assert not self.nodes.under_way, "calls are left at the nodes"
        for runner in self.runners:
            for work in runner._states.works.values():
                lane = work.lane
                assert (lane.in_flight, lane.waiting, len(lane.unsent)) == (0, 0, 0)
                assert lane.reserved == ""
            assert not runner._shards.runs
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
