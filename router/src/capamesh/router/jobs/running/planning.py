"""The plans that one router makes, each under the lease of its job. IO: what a planner does; a task for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import Overloaded
from capamesh.router.jobs.errors import JobsUnavailable
from capamesh.router.jobs.inputs.limits import ShardLimits, shard_limits
from capamesh.router.jobs.running.hosted_rows import batch_rows, out_row_bytes, unfit
from capamesh.router.jobs.spec import InputFormat
from capamesh.router.jobs.values import RENEW_S

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.jobs.planner import Planner
    from capamesh.router.jobs.running.nodes import Hosting, Nodes
    from capamesh.router.jobs.spec import JobSpec
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Job, JobId

MOST_PLANS: Final = 2
"""The plans at a time: a short one does not wait for a long one (guess)."""
UNKNOWN_ROWS_PER_S: Final = 200.0
"""The rows a second of a model that nobody hosts at the moment, or whose speed nobody knows (guess)."""

LEAST_ROW_S: Final = 1e-6
"""Seconds of a row at least: so much a router itself needs to read it and to write its result, as arrays (measured:
`benchmarks/job_stages.py`)."""
LEAST_TEXT_S: Final = 10e-6
"""The same where either is text (measured there: lines of 64 numbers)."""
_ARRAYS: Final[frozenset[str]] = frozenset(
    {InputFormat.NPY, InputFormat.NPZ, InputFormat.PARQUET, InputFormat.ARROW}
)
"""The forms of arrays, those of parts among them, which are called the same."""


class Planning:
    """The plans of one router."""

    def __init__(
        self,
        store: JobStore,
        planner: Planner,
        nodes: Nodes,
        owner: str,
        on_planned: Callable[[Job], Awaitable[None]],
        log: FilteringBoundLogger,
    ) -> None:
        """`on_planned` is told of each job that runs now, or has failed."""
        self._store = store
        self._planner = planner
        self._nodes = nodes
        self._owner = owner
        self._on_planned = on_planned
        self._log = log
        self._plans: dict[tuple[JobId, int], asyncio.Task[None]] = {}
        self._renewed_s = 0.0
        self.must_claim = asyncio.Event()
        """The event that a job may wait for its plan."""

    async def turn(self) -> None:
        """Take as many plans as may be made at a time."""
        while len(self._plans) < MOST_PLANS:
            taken = await self._store.claim_plan(self._owner)
            if taken is None:
                return
            job, token = taken
            task = asyncio.create_task(self._plan(job, token))
            self._plans[job.id, token] = task
            task.add_done_callback(partial(self._ended, (job.id, token)))

    async def renew(self, now_s: float) -> None:
        """Renew the leases of the plans when that is due, and give up those that are lost."""
        if not self._plans or now_s - self._renewed_s < RENEW_S:
            return
        self._renewed_s = now_s
        for (job_id, token), task in list(self._plans.items()):
            if not await self._store.renew_plan(job_id, token):
                task.cancel()

    def close(self) -> None:
        """Give up all plans: another router makes them anew."""
        for task in self._plans.values():
            task.cancel()

    def _ended(self, key: tuple[JobId, int], _task: asyncio.Task[None]) -> None:
        del self._plans[key]
        self.must_claim.set()

    async def _plan(self, job: Job, token: int) -> None:
        try:
            hosting = self._nodes.hosting(job.pinned, job.spec.model)
            words = "" if hosting is None else unfit(hosting, job.spec.input)
            if words:
                planned = await self._store.fail_plan(job.id, token, words)
            else:
                planned = await self._planner.plan(job, token, limits_for(hosting, job.spec))
            if planned is not None:
                await self._on_planned(planned)
        except (JobsUnavailable, Overloaded) as error:
            self._log.warning("jobs_plan_failed", job=job.id, reason=error.message)
        except Exception:  # noqa: BLE001 - the lease ends, and a plan that never ends fails its job
            self._log.exception("jobs_plan_crashed", job=job.id)


def limits_for(hosting: Hosting | None, spec: JobSpec) -> ShardLimits:
    """Return the bounds of a job's shards for its model as it is hosted; None: nobody hosts it now."""
    if hosting is None:
        return shard_limits(UNKNOWN_ROWS_PER_S, 1, 0)
    rows_per_s = UNKNOWN_ROWS_PER_S
    if hosting.row_s or hosting.best_rows:  # below half a microsecond a row takes none
        is_text = not {spec.input.format, spec.output.format} <= _ARRAYS
        rows_per_s = 1.0 / max(hosting.row_s, LEAST_TEXT_S if is_text else LEAST_ROW_S)
    return shard_limits(rows_per_s, batch_rows(hosting), out_row_bytes(hosting))
