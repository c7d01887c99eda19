"""The batch jobs of one router's process: their store, their places, their routes and their runner. IO: the store, which it opens and closes; that of the runner.

A store that the operator names, or that has been used before, is opened at the start, and ends it if that cannot be. The usual file
is made by the first who needs it, so that routers without jobs read no database in.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import ConfigError, Overloaded
from capamesh.protocol.system import System
from capamesh.router.http.batches import BatchesApi
from capamesh.router.http.files import FilesApi
from capamesh.router.http.job_events import JobEventsApi
from capamesh.router.http.job_results import JobResultsApi
from capamesh.router.http.jobs import JobsApi
from capamesh.router.http.limits import memory_bytes
from capamesh.router.http.part_uploads import PartUploadsApi
from capamesh.router.jobs.errors import JobsUnavailable
from capamesh.router.jobs.places import Places
from capamesh.router.jobs.readers.input_reading import ReadHere
from capamesh.router.jobs.readers.pool import Readers
from capamesh.router.jobs.readers.process import ReaderProcess
from capamesh.router.jobs.readers.separate import ReadSeparately
from capamesh.router.jobs.readers.words import reader_bytes
from capamesh.router.jobs.service import JobService
from capamesh.router.jobs.states import JobState
from capamesh.router.jobs.threads import Threads
from capamesh.router.jobs.uploads.folder import FileFolder
from capamesh.router.jobs.uploads.keeper import keep_tidy
from capamesh.router.jobs.uploads.uploads import Uploads
from capamesh.router.settings import JOBS_FILE, JOBS_FOLDER
from capamesh.router.telemetry import metrics

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.fleet.view import FleetView
    from capamesh.router.http.route import Pages
    from capamesh.router.jobs.readers.input_reading import InputReading, InThread
    from capamesh.router.jobs.running.nodes import Nodes
    from capamesh.router.jobs.store.file_store import FileStore
    from capamesh.router.jobs.store.job_store import JobStore
    from capamesh.router.requests.slices import Slices
    from capamesh.router.settings import RouterSettings
    from capamesh.router.telemetry import Telemetry

LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks whether another process has made the file of jobs: so soon its jobs are run here, too."""

LOOK_THREADS: Final = 4
"""The threads that give bytes of inputs to those who look at them before their job is taken: one whose disk hangs keeps its thread."""

COUNT_EVERY_S: Final = 15.0
"""Seconds between two looks how many jobs there are (guess: as often as Prometheus asks)."""


class OpenedStore:
    """The store of one process, which is opened once."""

    def __init__(
        self,
        where: str,
        *,
        is_named: bool,
        system: System,
        log: FilteringBoundLogger,
    ) -> None:
        """Open nothing yet. `is_named`: the operator has named the place, so that it is opened at the start."""
        self._where = where
        self._is_named = is_named
        self._system = system
        self._log = log
        self._store: JobStore | None = None
        self._opening = asyncio.Lock()
        self._has_failed = False
        """True once it was written down that the store cannot be opened."""

    @property
    def is_there(self) -> bool:
        """Return whether there is a store to be opened, as far as can be told without opening it."""
        if self._is_named or self._store is not None:
            return True
        try:
            return Path(self._where).exists()
        except OSError:  # the folder cannot be looked into
            return False

    def open(self) -> None:
        """Open the store, in this thread, if it is there. Raises `ConfigError`."""
        if self.is_there:
            self._store = self._opened()

    def check(self) -> None:
        """Look whether the store can be opened, if it is there. Raises `ConfigError`."""
        if self.is_there:
            from capamesh.router.jobs.store.database import open_database  # noqa: PLC0415 - as below

            open_database(self._where, self._system.wall_s).engine.dispose()

    async def get(self) -> JobStore:
        """Return the store, which is made if it is not there. Raises `ConfigError`."""
        async with self._opening:
            if self._store is None:
                self._store = await asyncio.to_thread(self._opened)
                self._log.info("jobs_opened")
            return self._store

    async def wait(self) -> JobStore:
        """Return the store once it is there and can be opened; until then, and after a failure, look again each second."""
        while True:
            if self.is_there:
                try:
                    return await self.get()
                except ConfigError as error:
                    if not self._has_failed:
                        self._log.error("jobs_unreachable", reason=error.message)
                    self._has_failed = True
            await asyncio.sleep(LOOK_EVERY_S)

    def committed(self) -> list[tuple[tuple[str], float]]:
        """Return the rows of the shards that this process has committed, by outcome; none before it is open."""
        store = self._store
        if store is None:
            return []
        return [(("ok",), store.committed_rows), (("bad",), store.committed_bad_rows)]

    async def close(self) -> None:
        """Close the store, if it was opened, after what was asked of it before."""
        async with self._opening:
            if self._store is not None:
                await self._store.close()

    def _opened(self) -> JobStore:
        # read in by routers that have jobs alone: docs/decisions/0063 says what it costs
        from capamesh.router.jobs.store.job_store import JobStore  # noqa: PLC0415

        return JobStore.open(self._where, self._system.wall_s)


class JobParts:
    """The parts of one process that are about jobs."""

    def __init__(
        self,
        settings: RouterSettings,
        fleet: FleetView,
        log: FilteringBoundLogger,
        slices: Slices,
        is_closing: Callable[[], bool] = lambda: False,
        system: System | None = None,
    ) -> None:
        """Open the store, if there is one; what takes long on the loop takes turns in `slices`.

        `is_closing` returns whether the router is about to stop. Raises `ConfigError`: the store cannot be opened, or a place is none.
        """
        self._is_closing = is_closing
        self._system = system = system or System()
        self._states: dict[JobState, int] = {}
        """The number of jobs in each state at the last look."""
        self._settings = settings
        self._log = log
        self._store: OpenedStore | None = None
        self._readers: Readers | None = None
        self.service: JobService | None = None
        """The jobs; None: this router keeps none."""
        self.uploads: Uploads | None = None
        """The uploaded files; None: likewise."""
        if settings.jobs is None:
            return
        self._store = store = opened_store(settings, log, system)
        places = places_of(settings)
        self._readers = readers = readers_of(settings, log)
        self._looks = Threads(LOOK_THREADS)
        looking = _reading(readers, places, self._looks, system)
        self.service = service = JobService(
            fleet,
            places,
            store.get,
            looking,
            self._looks,
            clock=system.steady_s,
            wall_s=system.wall_s,
        )

        async def files() -> FileStore:
            return (await service.store()).files

        self.uploads = Uploads(
            files, FileFolder(places.jobs_folder, own_bytes=settings.upload_bytes), slices
        )
        store.open()

    def pages(self) -> tuple[Pages, ...]:
        """Return the routes of jobs."""
        arrival_s = self._settings.arrival_s
        return (
            JobsApi(self.service, arrival_s=arrival_s),
            JobEventsApi(self.service, is_closing=self._is_closing, clock=self._system.steady_s),
            JobResultsApi(self.service),
            FilesApi(self.uploads, arrival_s=arrival_s),
            PartUploadsApi(self.uploads, arrival_s=arrival_s),
            BatchesApi(self.service, arrival_s=arrival_s),
        )

    def watch(self, telemetry: Telemetry) -> None:
        """Export how many jobs there are, and what was done for them here."""
        telemetry.watch_each(
            metrics.JOBS,
            lambda: [((state.value,), count) for state, count in self._states.items()],
        )
        telemetry.watch_each(
            metrics.JOB_ROWS, lambda: [] if self._store is None else self._store.committed()
        )
        service = self.service
        telemetry.watch_each(
            metrics.JOB_CALLS,
            lambda: (
                []
                if service is None
                else [((outcome,), count) for outcome, count in service.runner.calls().items()]
            ),
        )

    async def run(self, nodes: Nodes) -> None:
        """Open the store once another process has made it, and run its jobs at these nodes until it is cancelled."""
        opening, readers, service, uploads = self._store, self._readers, self.service, self.uploads
        if opening is None or readers is None or service is None or uploads is None:
            return
        store = await opening.wait()
        # read in by routers that have jobs alone, as the store is
        from capamesh.router.jobs.batch_files import BatchFiles  # noqa: PLC0415
        from capamesh.router.jobs.planner import Planner  # noqa: PLC0415
        from capamesh.router.jobs.running.runner import Runner  # noqa: PLC0415

        places, threads, system = service.places, Threads(), self._system
        reading = _reading(readers, places, threads, system)
        service.runner = runner = Runner(
            store,
            Planner(store, reading),
            reading,
            lambda job: places.sink(job.spec.output.url, job.id),
            nodes,
            owner=f"{socket.gethostname()} {os.getpid()} {system.token_bytes(4).hex()}",
            clock=system.steady_s,
            wall_s=system.wall_s,
            in_thread=threads,
            log=self._log,
        )
        files = BatchFiles(store, places, uploads, reading.names, system.steady_s, self._log)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(runner.run())
                tasks.create_task(files.run())
                tasks.create_task(keep_tidy(store.files, uploads.folder, system.wall_s))
        finally:
            threads.close()

    async def count(self) -> None:
        """Look now and then how many jobs there are, until cancelled."""
        while self._store is not None:
            store = await self._store.wait()
            with suppress(JobsUnavailable, Overloaded):  # those of before are shown
                found = await store.count_states()
                self._states = {state: found.get(state, 0) for state in JobState}
            await asyncio.sleep(COUNT_EVERY_S)

    async def close(self) -> None:
        """Let go of the store, once what was asked of it is done."""
        if self.service is not None:
            self.service.close()
        if self._readers is not None:
            self._looks.close()
            await self._readers.close()
        if self._store is not None:
            await self._store.close()


def readers_of(settings: RouterSettings, log: FilteringBoundLogger) -> Readers:
    """Return the processes that read inputs, none of which is started yet; the log tells once what their sandbox holds."""
    told: set[str] = set()

    def tell(holds: str) -> None:
        if holds not in told:
            told.add(holds)
            log.info("input_reader_sandbox", holds=holds)

    def start() -> ReaderProcess:
        return ReaderProcess(reader_bytes(memory_bytes()), settings.secret_paths, tell, log)

    return Readers(start, time.monotonic)


def _reading(readers: Readers, places: Places, in_thread: InThread, system: System) -> InputReading:
    """Return what reads inputs in those processes, and folders in threads; in virtual time all is read here."""
    here = ReadHere(places, in_thread, system.steady_s)
    return here if system.is_virtual else ReadSeparately(readers, places, in_thread, here)


def places_of(settings: RouterSettings) -> Places:
    """Return the places that jobs may use: never what is the router's alone. Raises `ConfigError`."""
    folder = settings.jobs_folder or settings.data_folder / JOBS_FOLDER
    return Places(folder, settings.jobs_places, settings.secret_paths)


def opened_store(
    settings: RouterSettings, log: FilteringBoundLogger, system: System
) -> OpenedStore:
    """Return the store of a router that keeps jobs, not opened yet."""
    where = settings.jobs or str(settings.data_folder / JOBS_FILE)
    return OpenedStore(where, is_named=bool(settings.jobs), system=system, log=log)


def require_jobs(settings: RouterSettings, log: FilteringBoundLogger) -> None:
    """Raise `ConfigError` where the workers of a router could not open its store, or where a place is none."""
    if settings.jobs is None:
        return
    places_of(settings)
    opened_store(settings, log, System()).check()
