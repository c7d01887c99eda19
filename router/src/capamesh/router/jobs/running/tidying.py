"""Removes what no manifest names from the folders of jobs that have ended. IO: the store; files, in threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import CapameshError
from capamesh.router.jobs.store.shard_operations import MAX_MANIFESTS

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.jobs.outputs.sink import Sink
    from capamesh.router.jobs.readers.input_reading import InThread
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.values import Job

JOBS_A_TURN: Final = 100
"""The jobs that are tidied at a time; of those that cannot be tidied now, as many may stand in the way of others."""
SETTLED_S: Final = 5.0
"""Seconds after a job's end before its folder is tidied: a router that was writing a part has ended that (guess)."""


async def tidy(
    store: JobStore,
    sink_of: Callable[[Job], Sink],
    in_thread: InThread,
    wall_s: Callable[[], float],
    log: FilteringBoundLogger,
) -> None:
    """Tidy jobs that have ended; one that cannot be tidied now stays for the next time. Raises what the store raises."""
    for job in await store.untidy(JOBS_A_TURN):
        if job.ended_s is not None and 0 <= wall_s() - job.ended_s < SETTLED_S:
            continue
        named = await _named(store, job)
        try:
            removed = await in_thread(partial(_collect, sink_of, job, named))
        except CapameshError as error:
            log.warning("jobs_tidy_failed", job=job.id, reason=error.message)
            continue
        await store.tidied(job.id)
        if removed:
            log.info("jobs_tidied", job=job.id, removed=removed)


def _collect(sink_of: Callable[[Job], Sink], job: Job, named: set[str]) -> int:
    return sink_of(job).collect(named)


async def _named(store: JobStore, job: Job) -> set[str]:
    """Return the names of all parts that manifests of a job name."""
    named: set[str] = set()
    from_seq = 0
    while True:
        found = await store.manifests(job.id, from_seq, MAX_MANIFESTS)
        for _, _, manifest in found:
            named.update(part.name for part in (manifest.part, manifest.bad_part) if part)
        if len(found) < MAX_MANIFESTS:
            return named
        from_seq = found[-1][0] + 1
