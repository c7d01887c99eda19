"""Runs batch jobs: leases shards in turn, has them run, commits what comes of them, and keeps jobs in the state that is true. IO.

Any number of routers run one of these on one store, and none of them is special. All that must hold whatever dies is the store's
matter: here a lease that may be lost ends its work, and what nobody can do now is given back. Loops that wait for different things
are tasks of their own, so that a store that does not answer holds up no call, and a call no lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import Overloaded
from capamesh.router.jobs.errors import JobsUnavailable
from capamesh.router.jobs.running.call_counts import CallCounts
from capamesh.router.jobs.running.claiming import Claiming
from capamesh.router.jobs.running.dry_run import measure
from capamesh.router.jobs.running.job_prices import JobPrices
from capamesh.router.jobs.running.job_states import JobStates
from capamesh.router.jobs.running.planning import Planning
from capamesh.router.jobs.running.progress import ProgressOfJobs
from capamesh.router.jobs.running.shard_run import Tools
from capamesh.router.jobs.running.shards_at_work import CHECK_S, CLOSE_S, ShardsAtWork
from capamesh.router.jobs.running.tidying import tidy
from capamesh.router.jobs.standing import JobRunner, Measured, Progress
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.values import JobId, Lease

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.jobs.outputs.sink import Sink
    from capamesh.router.jobs.planner import Planner
    from capamesh.router.jobs.readers.input_reading import InputReading, InThread
    from capamesh.router.jobs.running.nodes import Nodes
    from capamesh.router.jobs.spec import JobSpec
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Job, Pinned

LOOK_S: Final = 0.5
"""Seconds between two looks at the states of all jobs: what is paused at another router stops here within a second."""
PLAN_S: Final = 5.0
"""Seconds between two looks for plans that nobody makes; a job that waits for its plan is looked for at once."""
TAKE_OVER_S: Final = 0.25
"""Seconds between two looks for leases that have ended: a second after that, another router is to have each."""
PULSE_S: Final = 0.05
"""Seconds between two looks at the nodes, for there may be room where there was none."""
MEASURE_S: Final = 0.25
"""Seconds between two turns in which it is read how far some jobs are that are due."""
PRICES_S: Final = 2.0
"""Seconds between two looks for prices that no commit has brought to the store: a router that is killed loses those of so long."""
MEASURED: Final = 4
"""The most jobs whose progress is read in one turn: of more, so many in turn."""
SLOW_S: Final = 5.0
"""Seconds after which another router's shard is slow, at the end of a job (guess: as long as the longest shards take)."""
TIDY_S: Final = 10.0
"""Seconds between two looks for jobs that have ended and left files."""
REST_S: Final = 1.0
"""Seconds of rest after the store has failed, or a turn of a loop has crashed."""


class Runner(JobRunner):
    """The runner of one process of a router."""

    def __init__(
        self,
        store: JobStore,
        planner: Planner,
        reading: InputReading,
        sink_of: Callable[[Job], Sink],
        nodes: Nodes,
        *,
        owner: str,
        clock: Callable[[], float],
        wall_s: Callable[[], float],
        in_thread: InThread,
        log: FilteringBoundLogger,
    ) -> None:
        """`sink_of` returns where a job's parts go; `owner` is this process's name in the store, and no other's; `clock` never goes back, `wall_s` is the time since 1970."""
        self._store = store
        self._reading = reading
        self._sink_of = sink_of
        self._nodes = nodes
        self._owner = owner
        self._clock = clock
        self._wall_s = wall_s
        self._log = log
        self._in_thread = in_thread
        self._progress = ProgressOfJobs()
        self._calls = CallCounts()
        self._prices = JobPrices(owner)
        self._tools = Tools(nodes, in_thread, clock, self._calls, self._prices)
        self._is_measuring = False
        self._measured_last = JobId("")
        self._claiming = Claiming()
        self._states = JobStates(store, nodes, owner, clock)
        self._shards = ShardsAtWork(
            store,
            reading,
            sink_of,
            self._tools,
            self._claiming,
            move=self._states.move,
            log=log,
        )
        self._planning = Planning(store, planner, nodes, owner, self._planned, log)

    # what others ask

    @override
    def wake(self) -> None:
        self._states.must_look.set()

    @override
    def standing(self, job: JobId) -> Progress | None:
        known = self._states.jobs.get(job)
        if known is None:
            return None
        work = self._states.work_of(known)
        return self._progress.of(known, 0 if work is None else len(work.lane.nodes_of(job)))

    @override
    def calls(self) -> Mapping[str, int]:
        return self._calls.values()

    @override
    def promise(self, spec: JobSpec, rows: int) -> float | None:
        return self._promised_s(spec.model, spec.version, rows, JobId(""))

    @override
    async def measure(self, spec: JobSpec, pinned: Pinned, tenant: str) -> Measured | None:
        running = self._states.jobs.in_state(JobState.RUNNING)
        if self._is_measuring or any(job.spec.model == spec.model for job in running):
            return None
        self._is_measuring = True
        try:
            tools = replace(self._tools, prices=JobPrices(self._owner))  # no job has that price
            found = await measure(spec, pinned, tenant, self._reading, tools)
        finally:
            self._is_measuring = False
        if found is not None:
            self._progress.measured(spec.model, found.rows_per_s, self._clock())
        return found

    def _promised_s(self, model: str, version: str, rows: int, own: JobId) -> float | None:
        running = self._states.jobs.in_state(JobState.RUNNING)
        others = [job for job in running if job.spec.model == model and job.id != own]
        idle = self._nodes.idle_rows_per_s(model, version)
        return self._progress.promise(model, rows, others, idle, self._clock())

    # the loops

    async def run(self) -> None:
        """Run jobs until it is cancelled; then all leases are given back, if the store takes them."""
        states, shards, planning = self._states, self._shards, self._planning
        loops = (
            self._loop("look", self._look, LOOK_S, states.must_look),
            self._loop("plan", planning.turn, PLAN_S, planning.must_claim),
            self._loop("take over", self._take_over, TAKE_OVER_S, is_idle=lambda: not states.works),
            self._loop("claim", self._claim, LOOK_S, shards.must_claim),
            self._loop("leases", self._check_leases, CHECK_S),
            self._loop("pulse", self._pulse, PULSE_S, is_idle=lambda: not states.works),
            self._loop("measure", self._measure, MEASURE_S),
            self._loop("prices", self._keep_prices, PRICES_S),
            self._loop("tidy", self._tidy, TIDY_S),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for each in loops:
                    tasks.create_task(each)
        finally:
            planning.close()
            await shards.close()
            with suppress(JobsUnavailable, Overloaded, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._keep_prices()

    async def _loop(
        self,
        name: str,
        turn: Callable[[], Awaitable[None]],
        every_s: float,
        event: asyncio.Event | None = None,
        is_idle: Callable[[], bool] = lambda: False,
    ) -> None:
        """Do turns for ever, each when it is due or `event` is set. What goes wrong with one is written down.

        While `is_idle` says that there is nothing to do, turns are as seldom as looks.
        """
        event = event or asyncio.Event()
        while True:
            event.clear()
            rest_s = LOOK_S if is_idle() else every_s
            try:
                await turn()
            except (JobsUnavailable, Overloaded) as error:
                self._log.warning("jobs_store_failed", loop=name, reason=error.message)
                rest_s = max(REST_S, every_s)
            except Exception:  # noqa: BLE001 - any bug is one turn's, and the others go on
                self._log.exception("jobs_turn_crashed", loop=name)
                rest_s = max(REST_S, every_s)
            # not wait_for, which before Python 3.12 loses a cancellation that comes with the event
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await event.wait()

    async def _look(self) -> None:
        """Take over the states of all jobs, and stop what does not run any more."""
        states, shards = self._states, self._shards
        resumed = await states.look()
        shards.stop(states.is_running)
        for job_id in resumed:
            shards.setbacks.went_well(job_id)  # a person has put it right
        shards.setbacks.keep(states.jobs)
        self._reading.keep_only(states.jobs)
        self._progress.keep(states.jobs)
        self._claiming.sizes.keep(states.jobs)
        self._prices.forget_others(states.jobs.ids() | {run.job.id for run in shards.runs})
        shards.must_claim.set()
        if any(True for _ in states.jobs.in_state(JobState.PLANNING)):
            self._planning.must_claim.set()

    async def _planned(self, job: Job) -> None:
        """Take in a job that was just planned; one that cannot end in time has failed."""
        self._states.must_look.set()
        deadline_s = job.spec.deadline_s
        if deadline_s is None or job.state is not JobState.RUNNING:
            return
        left_s = self._promised_s(job.spec.model, job.pinned.version, job.rows, job.id)
        allowed_s = deadline_s - self._wall_s()
        if left_s is not None and left_s > allowed_s:
            words = (
                f"its {job.rows} rows take some {left_s:.0f} s at the capacity that was idle of late, and its deadline is in"
                f" {max(0.0, allowed_s):.0f} s; submit it with a later one, or none"
            )
            await self._states.move(job.id, JobState.FAILED, words)

    async def _take_over(self) -> None:
        """Lease the shards of routers that are gone, however many rows wait here: nobody else may be there."""
        states, shards = self._states, self._shards
        if not states.works:
            return
        now_s = self._clock()
        for job_id in await self._store.ended_leases():
            while (job := states.jobs.get(job_id)) is not None:
                count = self._claiming.may_take_over(
                    job, states.works, shards.runs, lambda job: shards.rests(job.id, now_s)
                )
                asked_s = self._clock()
                leases = await self._store.take_over(job, self._owner, count) if count else []
                for lease in leases:
                    self._claiming.took_over(job, states.works)
                    self._begin(job, lease, asked_s)
                if len(leases) < max(1, count):
                    break

    async def _claim(self) -> None:
        """Lease shards, in turn, as long as there is room to run them."""
        states, shards = self._states, self._shards
        now_s = self._clock()
        while True:
            job = self._claiming.next(
                states.jobs.in_state(JobState.RUNNING),
                states.works,
                shards.runs,
                lambda job: shards.rests(job.id, now_s),
                now_s,
            )
            if job is None:
                return
            asked_s = self._clock()
            rows = self._claiming.shard_rows(job, states.works)
            leases = await self._store.claim(job, self._owner, 1, rows=rows)
            if not leases:
                leases = await self._claim_last(job, asked_s)
            for lease in leases:
                self._begin(job, lease, asked_s)

    async def _claim_last(self, job: Job, asked_s: float) -> list[Lease]:
        """Return a shard that another router has had for long, if there is nothing else to do; end the job if all of them are done."""
        self._claiming.found_none(job.id, asked_s)
        work = self._states.work_of(job)
        if work is not None and work.is_idle(asked_s):
            leases = await self._store.claim(job, self._owner, 1, may_be_second=True, slow_s=SLOW_S)
            if leases:
                return leases
        if all(run.job.id != job.id for run in self._shards.runs):
            done = await self._store.finish(job.id)
            if done.state is not job.state:
                self._states.must_look.set()
        return []

    def _begin(self, job: Job, lease: Lease, asked_s: float) -> None:
        work = self._states.work_of(job)
        hosted = None if work is None else work.hosted
        if work is None or hosted is None or not self._states.is_running(job.id):
            self._shards.give_back(job, lease)
        else:
            self._shards.begin(job, lease, work, hosted, asked_s)

    async def _check_leases(self) -> None:
        await self._shards.check()
        await self._planning.renew(self._clock())

    async def _pulse(self) -> None:
        """Look at the nodes: how models are hosted, how long people wait, and whether there is room."""
        for work in self._states.works.values():
            work.look()
            if work.lane.waiting:
                work.pump()

    async def _measure(self) -> None:
        """Read how far some jobs are that run."""
        now_s, progress = self._clock(), self._progress
        running = sorted(
            job.id
            for job in self._states.jobs.in_state(JobState.RUNNING)
            if progress.is_due(job.id, now_s)
        )
        after = [job for job in running if job > self._measured_last]
        for job_id in [*after, *running][: min(MEASURED, len(running))]:
            job = self._states.jobs.get(job_id)
            if job is not None:
                self._progress.take(job, await self._store.counts(job_id), self._clock())
            self._measured_last = job_id

    async def _keep_prices(self) -> None:
        """Have the store know what was paid: of shards that were given up, too, and of calls that ended after their job."""
        while paid := self._prices.unkept():
            await self._store.keep_prices(paid)
            self._prices.kept(paid)

    async def _tidy(self) -> None:
        await tidy(self._store, self._sink_of, self._in_thread, self._wall_s, self._log)
