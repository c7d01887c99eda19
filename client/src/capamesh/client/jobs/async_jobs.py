"""The jobs and files of the asynchronous client. IO: what its client does; files that are uploaded are read in threads."""

from __future__ import annotations

import asyncio
import random
import time
from asyncio import sleep
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar, cast

from typing_extensions import override

from capamesh.client.asks import Ask
from capamesh.client.class_scores import NO_CLASSES
from capamesh.client.jobs import files as file_courses
from capamesh.client.jobs import watching
from capamesh.client.jobs.asks import ask_delete, ask_file, ask_job, repeated
from capamesh.client.jobs.data import Data
from capamesh.client.jobs.results import ResultsWanted, pyarrow_module, results, table_of
from capamesh.client.jobs.steps import Course, End, Give, Pause, Work
from capamesh.client.jobs.submission import (
    Columns,
    Deadline,
    JobWanted,
    Surroundings,
    promised,
    submitted,
)
from capamesh.client.jobs.uploads import Progress
from capamesh.client.jobs.values import BadRow, FileInfo, JobEvent, JobInfo, JobPromise, JobResult
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.tensors import Limits

T = TypeVar("T")


class AsyncTaker:
    """Takes the steps of courses, for one client."""

    def __init__(self, exchange: Callable[[Ask[Any]], Awaitable[Any]], limits: Limits) -> None:
        self.exchange = exchange
        self.limits = limits
        self.around = Surroundings(time.monotonic, time.time, random.random)

    async def result(self, course: Course[T]) -> T:
        """Return what a course that gives nothing comes to."""
        try:
            end = await until_given(course, self.exchange)
        finally:
            course.close()
        assert not isinstance(end, Give)  # noqa: S101 - it gives nothing
        return end.result

    async def given(self, course: Course[None]) -> AsyncIterator[Any]:
        """Yield what a course gives."""
        try:
            while isinstance(step := await until_given(course, self.exchange), Give):
                yield step.item
        finally:
            course.close()


class AsyncJobs:
    """The jobs of an asynchronous client's key: `client.jobs`."""

    def __init__(self, taker: AsyncTaker) -> None:
        self._taker = taker

    async def submit(
        self,
        data: Data,
        *,
        model: str,
        version: str = "",
        columns: Columns | None = None,
        id_column: str = "",
        format: str = "",  # noqa: A002 - the router's own word
        output: str = "",
        output_format: str = "",
        classes: Mapping[str, int] = NO_CLASSES,
        priority: int | None = None,
        deadline: Deadline | None = None,
        max_price: float | None = None,
        regions: Sequence[str] = (),
        concurrency: int = 0,
        most_bad_rows: int | None = None,
        most_failures: int | None = None,
        client_key: str = "",
        progress: Progress | None = None,
    ) -> AsyncJob:
        """Have a model run over all rows of a data set, and return at once; arguments and errors are those of `Jobs.submit`."""
        wanted = JobWanted(
            model,
            version,
            columns,
            id_column,
            format,
            output,
            output_format,
            classes,
            priority,
            deadline,
            max_price,
            regions,
            concurrency,
            most_bad_rows,
            most_failures,
            client_key,
        )
        course = submitted(data, wanted, self._taker.around, progress)
        return AsyncJob(self._taker, await self._taker.result(course))

    async def promise(
        self,
        data: Data,
        *,
        model: str,
        version: str = "",
        columns: Columns | None = None,
        format: str = "",  # noqa: A002 - the router's own word
        priority: int | None = None,
        deadline: Deadline | None = None,
        max_price: float | None = None,
        regions: Sequence[str] = (),
        concurrency: int = 0,
        progress: Progress | None = None,
    ) -> JobPromise:
        """Return when a job would end, without submitting it, as `Jobs.promise` does."""
        wanted = JobWanted(
            model,
            version,
            columns,
            format=format,
            priority=priority,
            deadline=deadline,
            max_price=max_price,
            regions=regions,
            concurrency=concurrency,
        )
        return await self._taker.result(promised(data, wanted, self._taker.around, progress))

    async def get(self, id: str) -> AsyncJob:  # noqa: A002 - the router's own word
        """Return a job; raise `JobNotFound` where there is none of that id, or it is another tenant's."""
        return AsyncJob(self._taker, await self._taker.exchange(repeated(ask_job(id))))

    async def list(self, *, state: str = "") -> AsyncIterator[AsyncJob]:
        """Yield all jobs of the key's tenant, the newest first; `state` leaves out those that are in another one."""
        patience = self._taker.around.patience(is_known=False)
        async for info in self._taker.given(watching.listed(state, patience)):
            yield AsyncJob(self._taker, info)


class AsyncJob:
    """A job at a router, which goes on whether or not anybody looks; `await job` waits until it has ended."""

    def __init__(self, taker: AsyncTaker, info: JobInfo) -> None:
        self._taker = taker
        self._info = info

    @override
    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r}, {self.state})"

    def __await__(self) -> Generator[Any, None, JobInfo]:
        return self.wait().__await__()

    @property
    def id(self) -> str:
        """The job's name, by which `client.jobs.get` finds it."""
        return self._info.id

    @property
    def state(self) -> str:
        """The state that it was in when the router was asked last."""
        return self._info.state

    @property
    def info(self) -> JobInfo:
        """All that the router said of it when it was asked last."""
        return self._info

    async def refresh(self) -> JobInfo:
        """Ask the router how it is, and return that."""
        return self._keep(await self._taker.exchange(repeated(ask_job(self.id))))

    async def wait(self, timeout_s: float | None = None) -> JobInfo:
        """Wait until it has ended, in whatever state, as `Job.wait` does."""
        around = self._taker.around
        course = watching.waited(self.id, around.patience(), around.clock, timeout_s)
        return self._keep(await self._taker.result(course))

    async def follow(self, every_s: float = 1.0) -> AsyncIterator[JobInfo]:
        """Yield how it is, at once and after each `every_s`, until it has ended."""
        course = watching.watched(self.id, self._taker.around.patience(), every_s)
        async for info in self._taker.given(course):
            yield self._keep(info)

    async def results(
        self, *, from_row: int = 0, in_order: bool = True, follow: bool = True
    ) -> AsyncIterator[JobResult]:
        """Yield the results of its rows, while it runs too; arguments are those of `Job.results`."""
        wanted = ResultsWanted(from_row, in_order, follow)
        course = results(self._info, wanted, self._taker.around.patience(), self._taker.limits)
        async for page in self._taker.given(course):
            for row in page:
                yield row

    async def results_table(self, *, from_row: int = 0) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return all results as a table of pyarrow, once it has ended, as `Job.results_table` does."""
        pyarrow = pyarrow_module()
        rows = [row async for row in self.results(from_row=from_row)]
        return await asyncio.to_thread(table_of, rows, pyarrow)

    async def errors(self) -> AsyncIterator[BadRow]:
        """Yield its bad rows, in order: the first 10,000 are kept."""
        course = watching.bad_rows(self.id, self._taker.around.patience())
        async for row in self._taker.given(course):
            yield row

    async def events(self, *, after: int = 0, follow: bool = False) -> AsyncIterator[JobEvent]:
        """Yield what has happened to it, behind the event of number `after`; `follow`: also what happens until it has ended."""
        patience = self._taker.around.patience()
        async for event in self._taker.given(
            watching.events(self.id, after, patience, follow=follow)
        ):
            yield event

    async def pause(self) -> JobInfo:
        """Stop it for a while; what is under way is still kept. Raises `JobConflict` where it has ended."""
        return self._keep(await self._taker.result(watching.moved(self.id, "pause")))

    async def resume(self) -> JobInfo:
        """Let it go on after a pause. Raises `JobConflict` where it has ended."""
        return self._keep(await self._taker.result(watching.moved(self.id, "resume")))

    async def cancel(self) -> JobInfo:
        """End it; results that there are remain. Raises `JobConflict` where it has ended otherwise."""
        return self._keep(await self._taker.result(watching.moved(self.id, "cancel")))

    def _keep(self, info: JobInfo) -> JobInfo:
        self._info = info
        return info


class AsyncFiles:
    """The files that a router keeps for an asynchronous client's key: `client.files`."""

    def __init__(self, taker: AsyncTaker) -> None:
        self._taker = taker

    async def create(
        self,
        data: Data | bytes,
        *,
        purpose: str = "user_data",
        filename: str = "",
        progress: Progress | None = None,
    ) -> FileInfo:
        """Upload a file, or other data, and return what the router calls it; arguments are those of `Files.create`."""
        course = file_courses.created(data, purpose, filename, self._taker.around, progress)
        return await self._taker.result(course)

    async def list(self, *, purpose: str = "") -> AsyncIterator[FileInfo]:
        """Yield all files of the key's tenant; `purpose` leaves out those for another one."""
        patience = self._taker.around.patience(is_known=False)
        async for file in self._taker.given(file_courses.listed(purpose, patience)):
            yield file

    async def get(self, id: str) -> FileInfo:  # noqa: A002 - the router's own word
        """Return a file's name, size and purpose."""
        return cast("FileInfo", await self._taker.exchange(repeated(ask_file(id))))

    async def delete(self, id: str) -> None:  # noqa: A002 - the router's own word
        """Remove a file."""
        await self._taker.exchange(repeated(ask_delete(id)))

    async def content(self, id: str) -> AsyncIterator[bytes]:  # noqa: A002 - the router's own word
        """Yield the bytes of a file, a piece at a time, over lost connections."""
        patience = self._taker.around.patience(is_known=False)
        async for piece in self._taker.given(file_courses.content(id, patience)):
            yield piece


async def until_given(
    course: Course[T], exchange: Callable[[Ask[Any]], Awaitable[Any]]
) -> Give | End[T]:
    """Take the steps of a course until it gives something or ends; what takes the disk's time is done in a thread."""
    try:
        step = course.send(None)
        while not isinstance(step, Give):
            try:
                match step:
                    case Pause(seconds=seconds):
                        await sleep(seconds)
                        came: object = None
                    case Work(do=do):
                        came = await asyncio.to_thread(do)
                    case ask:
                        came = await exchange(ask)
            except CapameshError as error:
                step = course.throw(error)
            else:
                step = course.send(came)
    except StopIteration as end:
        return End(end.value)
    return step
