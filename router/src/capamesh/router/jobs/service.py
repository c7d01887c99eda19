"""The jobs of a router as its routes use them: submitted, looked up, moved. IO: the store, and what looks at inputs.

The store is opened when it is first needed, for most routers have no job and are to read no database in.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import ConfigError, InvalidRequest, Overloaded, Unsupported
from capamesh.router.jobs.errors import InputInvalid, JobsUnavailable
from capamesh.router.jobs.following import Following
from capamesh.router.jobs.reading import PartReading
from capamesh.router.jobs.spec import JobSpec
from capamesh.router.jobs.standing import JobRunner, NoRunner
from capamesh.router.jobs.submitting import pinned, within_scope
from capamesh.router.jobs.values import JobId
from capamesh.router.jobs.views import JobViews

if TYPE_CHECKING:
    from capamesh.router.access.keys import Key
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.jobs.places import Places
    from capamesh.router.jobs.readers.input_reading import InputReading
    from capamesh.router.jobs.standing import Progress
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.jobs.threads import Threads
    from capamesh.router.jobs.values import Job, Pinned

LOOK_S: Final = 10.0
"""Seconds that a look at an input may take before its job is refused (guess: a store of objects that is far away)."""
MOST_WAITING: Final = 32
"""The most inputs that are looked at, or wait for that."""
NO_JOB: Final = JobId("job-")
"""Stands for a job that is not there yet."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The word of a router on a job before it is submitted."""

    rows: int | None
    """The rows of its input, which may be a guess; None: only reading it would tell."""
    left_s: float | None
    """The seconds that it takes; None: nobody can tell. `math.inf`: nothing is idle."""
    measured_rows: int = 0
    """The rows of it that were run to tell; 0: it goes by other jobs of late, or by what nodes say."""


class JobService:
    """The jobs of one router's process."""

    def __init__(
        self,
        fleet: FleetView,
        places: Places,
        store: Callable[[], Awaitable[JobStore]],
        looking: InputReading,
        in_thread: Threads,
        *,
        clock: Callable[[], float],
        wall_s: Callable[[], float],
    ) -> None:
        """`store` returns the store, and may open it first, or raise `ConfigError`; `looking` looks at inputs, in threads of `in_thread`.

        `clock` never goes back, `wall_s` is the time since 1970; both are in seconds.
        """
        self.fleet = fleet
        self.places = places
        self.runner: JobRunner = NoRunner()
        """The runner of jobs in this process; who makes one puts it here."""
        self.views: Final = JobViews(self.store, self._standing, clock)
        self.wall_s = wall_s
        self.following: Final = Following(self.store, self.views)
        self.reading: Final = PartReading()
        self._store = store
        self._looking = looking
        self._in_thread = in_thread
        self._waiting = 0

    async def store(self) -> JobStore:
        """Return the store. Raises `JobsUnavailable`: it cannot be opened."""
        try:
            return await self._store()
        except ConfigError as exc:
            raise JobsUnavailable(f"{exc.message}; ask the router's operator") from exc

    async def submit(self, spec: JobSpec, tenant: str, key: Key | None) -> tuple[Job, bool]:
        """Keep a job and return it and True; the one that the tenant submitted before under its client key, and False.

        `key` is the submitting one; None: no key is asked for. The model is pinned, by its content, to what requests for it get now.

        Raises:
            Forbidden: the key is not for it.
            InvalidRequest: its input cannot be read, its places are none of the router's, or its deadline cannot be met.
            KeyUsed: the tenant used the client key for another job.
            TooManyRequests: the tenant has the most jobs that it may.
            JobsUnavailable: the store fails.
        """
        spec, pin = await self.checked(spec, tenant, key)
        store = await self.store()
        job, is_new = await store.submit(tenant, spec, pin)
        self.runner.wake()
        return job, is_new

    async def checked(self, spec: JobSpec, tenant: str, key: Key | None) -> tuple[JobSpec, Pinned]:
        """Return a job within its key's scope, and its model pinned, once all of it was looked at; raises as `submit`."""
        spec = within_scope(spec, key)
        pin, _ = pinned(spec, self.fleet)
        self._check_deadline(spec, await self.promise(spec, tenant))
        return spec, pin

    async def promise(self, spec: JobSpec, tenant: str) -> Promise:
        """Return what a job would take, once its input and its output were looked at; raises as `submit` for these."""
        rows = await self._look(spec, tenant)
        return Promise(rows, None if rows is None else self.runner.promise(spec, rows))

    async def dry_run(self, spec: JobSpec, tenant: str) -> Promise:
        """Return what a job would take, once some of its rows were run; raises as `promise`."""
        pin, _ = pinned(spec, self.fleet)
        rows = await self._look(spec, tenant)
        measured = await self.runner.measure(spec, pin, tenant)
        left_s = None if rows is None else self.runner.promise(spec, rows)
        return Promise(rows, left_s, 0 if measured is None else measured.rows)

    def close(self) -> None:
        """Read no more results."""
        self.reading.close()

    def _standing(self, job: JobId) -> Progress | None:
        return self.runner.standing(job)

    async def _look(self, spec: JobSpec, tenant: str) -> int | None:
        """Return how many rows an input seems to have. Raises `Overloaded`, `InputInvalid` if it takes too long, or what is wrong with it."""
        # a look that was given up is one still for as long as its disk keeps its thread
        if max(self._waiting, self._in_thread.under_way) >= MOST_WAITING:
            raise Overloaded(
                f"{MOST_WAITING} jobs are being submitted, the most that may be at once; try again",
                1.0,
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(LOOK_S):
                await self._in_thread(partial(self.places.sink, spec.output.url, NO_JOB))
                return await self._looking.look(spec.input, tenant)
        except TimeoutError:
            raise InputInvalid(
                f"the input was not read within {LOOK_S:g} s; look whether its disk or its store can be reached"
            ) from None
        except ConfigError as exc:  # a library is missing here
            raise Unsupported(exc.message) from exc
        finally:
            self._waiting -= 1

    def _check_deadline(self, spec: JobSpec, promise: Promise) -> None:
        if spec.deadline_s is None:
            return
        allowed_s = spec.deadline_s - self.wall_s()
        if allowed_s <= 0:
            raise InvalidRequest(
                f"the deadline was {-allowed_s:.0f} s ago; deadline_s is a time, in seconds since 1970"
            )
        left_s = promise.left_s
        if left_s is not None and left_s > allowed_s:
            takes = (
                "nothing is idle now"
                if math.isinf(left_s)
                else f"the job takes some {left_s:.0f} s"
            )
            raise InvalidRequest(
                f"the deadline is in {allowed_s:.0f} s, and at the capacity that was idle of late {takes}; give a later one, or"
                " none"
            )
