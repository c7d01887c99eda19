"""Runs some rows of a job that was not submitted, and tells how many it ran a second. IO: its input; calls to nodes.

The rows go the way of a shard, but for its lease and its part: what they cost is what a job's cost, however little of it is the model's run.
They are paid for as any, and what comes of them is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import aclosing
from functools import reduce
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.router.jobs.outputs.sink import Sink
from capamesh.router.jobs.running.errors import ShardEnd
from capamesh.router.jobs.running.hosted_rows import unfit
from capamesh.router.jobs.running.model_work import ModelWork
from capamesh.router.jobs.running.planning import limits_for
from capamesh.router.jobs.running.progress import DRY
from capamesh.router.jobs.running.shard_run import ShardRun
from capamesh.router.jobs.standing import Measured
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.values import Job, Lease, Part, RowRange

if TYPE_CHECKING:
    from capamesh.router.jobs.readers.input_reading import InputReading
    from capamesh.router.jobs.running.nodes import Hosting
    from capamesh.router.jobs.running.shard_run import Tools
    from capamesh.router.jobs.spec import JobSpec
    from capamesh.router.jobs.values import Pinned

WANTED_S: Final = 1.0
"""Seconds of rows whose rate is told: as long as some calls of most models (guess)."""
MOST_S: Final = 10.0
"""Seconds after which a dry run is given up (guess: whoever asks waits)."""
PULSE_S: Final = 0.05
"""Seconds between two looks at the nodes."""


async def measure(
    spec: JobSpec, pinned: Pinned, tenant: str, reading: InputReading, tools: Tools
) -> Measured | None:
    """Run rows of a job's input and return how many a second; None: nodes do not run them now, or not in `MOST_S`."""
    nodes = tools.nodes
    work = ModelWork(pinned, spec.model, nodes, lambda _job: None, tools.clock)
    work.look()
    if work.hosted is None or unfit(work.hosted, spec.input):
        return None
    pulse = asyncio.create_task(_pump(work))
    try:
        async with asyncio.timeout(MOST_S):
            return await _measured(spec, tenant, work, work.hosted, reading, tools)
    except (CapameshError, ShardEnd, TimeoutError):
        return None
    finally:
        pulse.cancel()


async def _measured(
    spec: JobSpec,
    tenant: str,
    work: ModelWork,
    hosting: Hosting,
    reading: InputReading,
    tools: Tools,
) -> Measured | None:
    fingerprint, ranges = "", list[RowRange]()
    async with aclosing(reading.plan(spec.input, tenant, limits_for(hosting, spec))) as plan:
        async for fingerprint, piece in plan:  # noqa: B007 - it is the same in all
            ranges = piece
            if ranges:
                break
    if not ranges:
        return None
    job = Job(DRY, tenant, spec, work.pinned, JobState.RUNNING, "", 0.0, None, 1, 1, fingerprint)
    # the first rows open links and files; of the next ones it is known how many take a while
    first = await _run(job, ranges[0], work, hosting, reading, tools)
    wanted = first.rows_per_s * WANTED_S
    rest = ranges[1:]
    while len(rest) > 1 and sum(each.rows for each in rest[:-1]) >= wanted:
        rest.pop()
    if not rest:
        return first
    return await _run(job, reduce(RowRange.joined, rest), work, hosting, reading, tools)


async def _run(
    job: Job,
    rows: RowRange,
    work: ModelWork,
    hosting: Hosting,
    reading: InputReading,
    tools: Tools,
) -> Measured:
    lease = Lease(job.id, 0, 1, 0.0, rows)
    began_s = tools.clock()
    await ShardRun(job, lease, work, hosting, tools).run(reading, _Nowhere())
    return Measured(rows.rows, rows.rows / max(1e-6, tools.clock() - began_s))


async def _pump(work: ModelWork) -> None:
    while True:
        await asyncio.sleep(PULSE_S)
        work.look()
        work.pump()


class _Nowhere(Sink):
    """Keeps no part."""

    @override
    def write(self, name: str, chunks: Iterable[bytes]) -> Part:
        return Part(name, sum(map(len, chunks)), "")

    @override
    def check_room(self, size_bytes: int) -> None:
        """Do nothing."""

    @override
    def read(self, part: Part) -> bytes:
        return b""

    @override
    def collect(self, named: Collection[str]) -> int:
        return 0
