"""Rows have one result each, whatever happens to two routers, on both stores."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_desk import PINNED, Clock, Desk
from job_files import ANYWHERE, write_jsonl
from postgres import served

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.errors import JobConflict, OutputFailed
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.opening import open_planned, open_reader
from capamesh.router.jobs.inputs.rows import read_windows
from capamesh.router.jobs.outputs.parts import bad_chunks, part_chunks
from capamesh.router.jobs.outputs.results import Results
from capamesh.router.jobs.outputs.sink import LocalSink, part_name
from capamesh.router.jobs.spec import FailurePolicy, InputFormat, InputSpec, JobSpec, OutputSpec
from capamesh.router.jobs.states import COMMITTING, JobState
from capamesh.router.jobs.store import job_operations as jobs
from capamesh.router.jobs.store import lease_operations as leasing
from capamesh.router.jobs.store import plan_operations as plans
from capamesh.router.jobs.store import shard_operations as shards
from capamesh.router.jobs.store.database import open_database
from capamesh.router.jobs.values import LEASE_S, BadRow, JobId, Lease, Manifest

ROWS = 26
SHARD_ROWS = 4
BAD = {5, 17}
"""The rows whose values do not fit."""
INPUTS = {"x": TensorSpec("x", Datatype.FP32, (-1,))}
STEP_NAMES = ("_make_folder", "_write_all", "_sync", "_rename", "_sync_folder")


# what is done more often stands there more often
ACTIONS = (
    *("claim", "make", "commit") * 3,
    *("take over", "renew", "freeze or wake", "make badly", "set clock"),
    *("give back", "kill", "wait", "pause or resume", "finish"),
)
STEP = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1), st.integers(0, 7), st.integers(0, 39))


def walk(where: str, steps: list[tuple[str, int, int, int]]) -> TwoRouters:
    """Let two routers do and bear these steps, and end the job."""
    routers = TwoRouters(where)
    try:
        for each in steps:
            routers.step(*each)
        routers.end()
    finally:
        routers.close()
    return routers


class Killed(BaseException):
    """The router's end."""


@dataclass
class Work:
    """A shard that a router has, and how far it is."""

    lease: Lease
    results: list[Results] | None = None
    bad: list[BadRow] = field(default_factory=list[BadRow])
    manifest: Manifest | None = None


class Router:
    """One router: its connection, and what it has in memory."""

    def __init__(self, where: str, clock: Clock, name: str) -> None:
        self.name = name
        self.desk = Desk(open_database(where, clock), clock)
        self.work: list[Work] = []
        self.is_frozen = False


class TwoRouters:
    """What two routers may do to one job, and what may be done to them."""

    def __init__(self, where: str = "") -> None:
        """Use a database; "": a file of SQLite."""
        memory = Path("/dev/shm")  # noqa: S108 - where there is one, a disk need not be waited for
        self.kept = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.folder = Path(self.kept.name)
        self.clock = Clock()
        where = where or str(self.folder / "jobs.db")
        self.routers = [Router(where, self.clock, name) for name in "ab"]
        rows = [{"v": "bad" if at in BAD else at / 2, "name": f"r{at}"} for at in range(ROWS)]
        path = write_jsonl(self.folder / "in.jsonl", rows)
        source = InputSpec(str(path), InputFormat.JSONL, {"x": ("v",)}, "name")
        spec = JobSpec(
            "m", source, OutputSpec(str(self.folder)), failure=FailurePolicy(most_failures=100)
        )
        desk = self.routers[0].desk
        job_id = JobId(f"job-{self.folder.name}")
        desk.call(jobs.submit, job_id, "t", spec, PINNED)
        assert desk.call(plans.claim_plan, "a")
        reader = open_reader(source, "t", ANYWHERE)
        planned = list(reader.ranges(ShardLimits(SHARD_ROWS)))
        desk.call(plans.add_shards, job_id, 1, 0, planned)
        job = desk.call(plans.finish_plan, job_id, 1, reader.fingerprint())
        assert job is not None
        self.job = job
        self.first: dict[int, int] = {}
        """The token of each shard's first lease, as long as it holds."""
        self.second: dict[int, int] = {}
        self.done: dict[int, Manifest] = {}
        self.state = JobState.RUNNING
        self.commits = 0

    def close(self) -> None:
        for router in self.routers:
            router.desk.database.engine.dispose()
        self.kept.cleanup()

    def step(self, action: str, at: int, which: int, detail: int) -> None:
        """Do one thing; `detail` decides what its name leaves open."""
        match action:
            case "claim":
                self.claim(at, 1 + which % 4, may_be_second=detail % 3 == 0)
            case "make":
                self.make(at, which)
            case "make badly":
                fault = STEP_NAMES[detail % len(STEP_NAMES)]
                self.make_badly(at, which, fault, is_after=detail % 2 == 0, is_kill=detail % 4 > 1)
            case "commit":
                self.commit(at, which, is_answer_lost=detail % 4 == 0)
            case "take over":
                self.take_over(at)
            case "renew":
                self.renew(at)
            case "give back":
                self.give_back(at, which)
            case "kill":
                self.routers[at].work.clear()
                self.routers[at].is_frozen = False
            case "freeze or wake":
                self.routers[at].is_frozen = not self.routers[at].is_frozen
            case "wait":
                self.clock.now_s += (1.0, 5.0, LEASE_S, 60.0)[detail % 4]
            case "set clock":
                self.clock.now_s += (-86400.0, -LEASE_S, -1.0, 86400.0)[detail % 4]
            case "pause or resume":
                self.pause_or_resume()
            case _:
                self.finish(at)

    # what routers do

    def claim(self, at: int, count: int, *, may_be_second: bool) -> None:
        router = self.routers[at]
        if router.is_frozen:
            return
        asked = (self.job.id, self.job.spec, router.name, count)
        self._leased(router, router.desk.call(leasing.claim, *asked, may_be_second=may_be_second))

    def _leased(self, router: Router, found: list[Lease]) -> None:
        assert not found or self.state is JobState.RUNNING
        for lease in found:
            assert lease.seq not in self.done
            assert lease.token > max(self.first.get(lease.seq, 0), self.second.get(lease.seq, 0))
            (self.second if lease.is_second else self.first)[lease.seq] = lease.token
            router.work.append(Work(lease))

    def make(self, at: int, which: int) -> None:
        work = self._work(at, which)
        if work is not None and work.manifest is None:
            self._compute(work)
            self._write(LocalSink(self.folder, self.job.id), work)

    def make_badly(self, at: int, which: int, step: str, *, is_after: bool, is_kill: bool) -> None:
        work = self._work(at, which)
        if work is None or work.manifest is not None:
            return
        router = self.routers[at]
        self._compute(work)
        sink = LocalSink(self.folder, self.job.id)
        error = Killed() if is_kill else OSError(errno.ENOSPC, "No space left")
        whole = getattr(sink, step)

        def broken(*words: object) -> None:
            if is_after:
                whole(*words)
            raise error

        setattr(sink, step, broken)
        try:
            self._write(sink, work)
        except Killed:
            router.work.clear()
        except OutputFailed as exc:
            router.work.remove(work)
            held = router.desk.call(leasing.release, work.lease, self.job.spec, exc.message)
            assert held == self._holds(work.lease)
            self._forget(work.lease)

    def commit(self, at: int, which: int, *, is_answer_lost: bool) -> None:
        work = self._work(at, which)
        if work is None or work.manifest is None:
            return
        router = self.routers[at]
        self._commit(router, work)
        if is_answer_lost:  # so the router renews its lease as before, and asks again
            self.renew(at)
            self._commit(router, work)
        router.work.remove(work)

    def renew(self, at: int) -> None:
        router = self.routers[at]
        if router.is_frozen:
            return
        kept = router.desk.call(leasing.renew, [each.lease for each in router.work])
        tokens = {(each.seq, each.token) for each in kept}
        for work in list(router.work):
            is_kept = (work.lease.seq, work.lease.token) in tokens
            assert is_kept == (self._holds(work.lease) and self.state in COMMITTING)

    def give_back(self, at: int, which: int) -> None:
        work = self._work(at, which)
        if work is None:
            return
        router = self.routers[at]
        router.work.remove(work)
        held = router.desk.call(leasing.release, work.lease, self.job.spec)
        assert held == self._holds(work.lease)
        self._forget(work.lease)

    # what happens to them

    def take_over(self, at: int) -> None:
        """Let all leases end, and a router take them over."""
        self.clock.now_s += LEASE_S
        router = self.routers[at]
        if router.is_frozen:
            return
        ended = router.desk.call(leasing.ended)
        found = router.desk.call(leasing.take_over, self.job.id, self.job.spec, router.name, 7)
        assert bool(found) == bool(ended)
        self._leased(router, found)

    def pause_or_resume(self) -> None:
        if self.state not in {JobState.RUNNING, JobState.PAUSED}:
            return
        to = JobState.PAUSED if self.state is JobState.RUNNING else JobState.RUNNING
        self.state = self.routers[0].desk.call(jobs.move, self.job.id, to).state

    def finish(self, at: int) -> None:
        if self.routers[at].is_frozen:
            return
        job = self.routers[at].desk.call(jobs.finish, self.job.id)
        is_done = len(self.done) == self.job.shards
        assert (job.state is JobState.COMPLETED) == is_done
        self.state = job.state

    def _check_manifests(self) -> None:
        """Look at the manifests: none ever changes, and the counts are theirs."""
        desk = self.routers[0].desk
        found = desk.call(shards.manifests, self.job.id, 0, 100)
        assert {seq: manifest for seq, _, manifest in found} == self.done
        counts = desk.call(jobs.counts, self.job.id)
        assert (counts.done_shards, counts.rows) == (
            len(self.done),
            sum(each.rows for each in self.done.values()),
        )

    # the steps

    def _work(self, at: int, which: int) -> Work | None:
        router = self.routers[at]
        if router.is_frozen or not router.work:
            return None
        return router.work[which % len(router.work)]

    def _compute(self, work: Work) -> None:
        if work.results is not None:
            return
        reader, source = open_planned(self.job, ANYWHERE), self.job.spec.input
        work.results = []
        for window in read_windows(reader, work.lease.range, source, INPUTS):
            work.bad += window.bad
            for each in window.batches:
                # no two leases have the same results, so that a mix would be seen
                by = np.full(len(each.ids), work.lease.token)
                outputs = {"y": each.inputs["x"] * 2, "by": by}
                work.results.append(Results(each.numbers, each.ids, outputs))

    def _write(self, sink: LocalSink, work: Work) -> None:
        assert work.results is not None
        part = bad_part = None
        if work.results:
            name = part_name(work.lease, "jsonl")
            part = sink.write(name, part_chunks(work.results, self.job.spec.output.format))
        if work.bad:
            bad_part = sink.write(part_name(work.lease, "jsonl", is_bad=True), bad_chunks(work.bad))
        rows = sum(len(each.ids) for each in work.results)
        work.manifest = Manifest(rows, len(work.bad), part, bad_part)

    def _commit(self, router: Router, work: Work) -> None:
        assert work.manifest is not None
        self.commits += 1
        lease = work.lease
        is_mine = self.done.get(lease.seq) == work.manifest
        expected = is_mine or (self._holds(lease) and self.state in COMMITTING)
        made = (lease, self.job.spec, work.manifest, tuple(work.bad))
        taken = router.desk.call(shards.commit, *made)
        assert taken == expected
        if taken and not is_mine:
            self.done[lease.seq] = work.manifest
            self.first.pop(lease.seq, None)
            self.second.pop(lease.seq, None)
        self._check_manifests()

    def _holds(self, lease: Lease) -> bool:
        return lease.seq not in self.done and lease.token in {
            self.first.get(lease.seq),
            self.second.get(lease.seq),
        }

    def _forget(self, lease: Lease) -> None:
        for tokens in (self.first, self.second):
            if tokens.get(lease.seq) == lease.token:
                del tokens[lease.seq]

    def end(self) -> None:
        """Let one healthy router end the job, and look at every row."""
        router = self.routers[0]
        router.is_frozen = False
        if self.state is JobState.PAUSED:
            self.pause_or_resume()
        for _ in range(self.job.shards + 1):
            self.clock.now_s += 3 * LEASE_S  # whatever others had has ended
            router.work.clear()
            self.claim(0, leasing.MAX_CLAIM, may_be_second=False)
            for work in list(router.work):
                self._compute(work)
                self._write(LocalSink(self.folder, self.job.id), work)
                self._commit(router, work)
            self.finish(0)
            if self.state is JobState.COMPLETED:
                break
        assert self.state is JobState.COMPLETED
        self._check_results(router)

    def _check_results(self, router: Router) -> None:
        sink = LocalSink(self.folder, self.job.id)
        found = router.desk.call(shards.manifests, self.job.id, 0, 100)
        parts = {each.name for _, _, one in found for each in (one.part, one.bad_part) if each}
        sink.collect(parts)
        assert {each.name for each in sink.folder.iterdir()} == parts
        rows: list[int] = []
        for seq, planned, manifest in found:
            assert manifest.part is not None
            lines = [json.loads(line) for line in sink.read(manifest.part).splitlines()]
            assert len({line["outputs"]["by"] for line in lines}) == 1
            assert all(planned.first_row <= line["row"] for line in lines)
            rows += [line["row"] for line in lines]
            assert all(line["outputs"]["y"] == line["row"] for line in lines)
            assert all(line["id"] == f"r{line['row']}" for line in lines)
            assert seq in self.done
        assert rows == [at for at in range(ROWS) if at not in BAD]
        kept = router.desk.call(shards.bad_rows, self.job.id, -1, 100)
        assert {each.row for each in kept} == BAD
        assert len(kept) == len(BAD)
        with pytest.raises(JobConflict):
            router.desk.call(jobs.move, self.job.id, JobState.CANCELLED)


STEPS = st.lists(STEP, min_size=30, max_size=60)
MANY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@given(STEPS)
@MANY
def test_rows_have_one_result_each_on_sqlite(steps: list[tuple[str, int, int, int]]) -> None:
    walk("", steps)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with served() as server:
        yield server.new_database()


@given(STEPS)
@settings(MANY, max_examples=10)
def test_rows_have_one_result_each_on_postgres(
    database: str, steps: list[tuple[str, int, int, int]]
) -> None:
    walk(database, steps)


def test_frozen_router_commits_nothing_when_it_wakes() -> None:
    steps = [
        ("claim", 0, 3, 1),
        *(("make", 0, at, 0) for at in range(4)),
        ("freeze or wake", 0, 0, 0),
        ("wait", 0, 0, 3),
        ("claim", 1, 3, 1),
        *(("make", 1, at, 0) for at in range(4)),
        ("freeze or wake", 0, 0, 0),
        *(("commit", 0, 0, 1) for _ in range(4)),
        *(("commit", 1, 0, 1) for _ in range(4)),
    ]
    routers = walk("", steps)
    assert all(line.part is not None for line in routers.done.values())
    assert {routers.done[seq].part.name for seq in range(4)} == {  # type: ignore[union-attr]
        f"part-{seq:06d}-2.jsonl" for seq in range(4)
    }
