"""The jobs and files of the synchronous client. IO: what its client does, and files that are uploaded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import sleep
from typing import Any, TypeVar, cast

from typing_extensions import override

from capamesh.client.asks import Ask
from capamesh.client.class_scores import NO_CLASSES
from capamesh.client.jobs import files as file_courses
from capamesh.client.jobs import watching
from capamesh.client.jobs.asks import ask_delete, ask_file, ask_job, repeated
from capamesh.client.jobs.data import Data
from capamesh.client.jobs.results import ResultsWanted, pyarrow_module, results, table_of
from capamesh.client.jobs.steps import Course, Give, until_given
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
from capamesh.protocol.tensors import Limits

T = TypeVar("T")


class Taker:
    """Takes the steps of courses, for one client."""

    def __init__(self, exchange: Callable[[Ask[Any]], Any], limits: Limits) -> None:
        self.exchange = exchange
        self.limits = limits
        self.around = Surroundings(time.monotonic, time.time, random.random)

    def result(self, course: Course[T]) -> T:
        """Return what a course that gives nothing comes to."""
        try:
            end = until_given(course, self.exchange, sleep)
        finally:
            course.close()
        assert not isinstance(end, Give)  # noqa: S101 - it gives nothing
        return end.result

    def given(self, course: Course[None]) -> Iterator[Any]:
        """Yield what a course gives."""
        try:
            while isinstance(step := until_given(course, self.exchange, sleep), Give):
                yield step.item
        finally:
            course.close()


class Jobs:
    """The jobs of a client's key: `client.jobs`."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker

    def submit(
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
    ) -> Job:
        """Have a model run over all rows of a data set, and return at once: the router does it, with what its nodes have to spare.

        What the router cannot read is uploaded first, in pieces; the upload goes on where it was when a connection breaks.

        Args:
            data: the rows. A path of this machine; a URL that the router reads itself: `s3://…`, or `file:///…` in a folder that its
                operator allows; a `FileInfo` of `client.files`; a table of pandas, Polars or pyarrow; an array of numpy, whose first axis
                is the rows, or several by name; or an iterable of dicts.
            model: the model's name; the job runs the version that it has now to its end.
            version: the version to run; empty: the one that the router chooses.
            columns: the column for each input of the model, or several that are put side by side; None: that of the input's name.
            id_column: the column whose texts name the rows in the results; empty: their numbers do.
            format: the form of the rows: `jsonl`, `csv`, `parquet`, `arrow`, `npy`, `npz` or `folder`; empty: as the name's ending says.
            output: the URL of the folder where the router writes results; empty: it keeps them itself.
            output_format: `jsonl`, `parquet` or `npz`; empty: JSON lines.
            classes: outputs of which each row gets its largest scores alone, as texts "score:index:label", and how many of them.
            priority: 1 goes first, 255 last; None: 255.
            deadline: the time by which it must have ended, or the seconds from now; it is refused where that cannot be.
            max_price: the price of a million rows above which nodes are not asked.
            regions: the regions whose nodes are asked; none: all.
            concurrency: the most calls at a time; 0: as many as there is room for.
            most_bad_rows: the bad rows with which it goes on; None: 1,000.
            most_failures: the failures of one shard that end it; None: 10.
            client_key: the caller's own name of the job: submitted again, it is the same job, and data are not uploaded again. Empty: one
                is drawn, so that a request that is sent again makes no second job.
            progress: a function that is told, while data are uploaded, how many bytes of how many the router has.

        Raises:
            InvalidRequest: these are no data, the router cannot read them, or the deadline cannot be met.
            ModelNotFound: nobody hosts the model.
            KeyUsed: the client key names another job.
            TooManyRequests: there are as many jobs, or bytes of files, as the key may have.
            ConfigError: a file cannot be read here, or a library is missing.
            LinkLost: the router cannot be reached.
        """
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
        return Job(
            self._taker, self._taker.result(submitted(data, wanted, self._taker.around, progress))
        )

    def promise(
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
        """Return when a job would end, without submitting it; arguments and errors are those of `submit`.

        Data that the router cannot read are uploaded, and removed again.
        """
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
        return self._taker.result(promised(data, wanted, self._taker.around, progress))

    def get(self, id: str) -> Job:  # noqa: A002 - the router's own word
        """Return a job; raise `JobNotFound` where there is none of that id, or it is another tenant's."""
        return Job(self._taker, self._taker.exchange(repeated(ask_job(id))))

    def list(self, *, state: str = "") -> Iterator[Job]:
        """Yield all jobs of the key's tenant, the newest first; `state` leaves out those that are in another one."""
        patience = self._taker.around.patience(is_known=False)
        for info in self._taker.given(watching.listed(state, patience)):
            yield Job(self._taker, info)


class Job:
    """A job at a router, which goes on whether or not anybody looks."""

    def __init__(self, taker: Taker, info: JobInfo) -> None:
        self._taker = taker
        self._info = info

    @override
    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.state})"

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

    def refresh(self) -> JobInfo:
        """Ask the router how it is, and return that."""
        return self._keep(self._taker.exchange(repeated(ask_job(self.id))))

    def wait(self, timeout_s: float | None = None) -> JobInfo:
        """Wait until it has ended, in whatever state, over lost connections and routers that restart.

        Raises:
            DeadlineExceeded: it has not ended within `timeout_s`; it goes on.
            LinkLost: no router could be reached for five minutes.
        """
        around = self._taker.around
        return self._keep(
            self._taker.result(watching.waited(self.id, around.patience(), around.clock, timeout_s))
        )

    def follow(self, every_s: float = 1.0) -> Iterator[JobInfo]:
        """Yield how it is, at once and after each `every_s`, until it has ended."""
        for info in self._taker.given(
            watching.watched(self.id, self._taker.around.patience(), every_s)
        ):
            yield self._keep(info)

    def results(
        self, *, from_row: int = 0, in_order: bool = True, follow: bool = True
    ) -> Iterator[JobResult]:
        """Yield the results of its rows, while it runs too; rows without one, of which `errors` tells, are left out.

        A lost connection costs nothing: what did not come is asked for again. Results that another folder got (`output=`) may
        be read there as well.

        Args:
            from_row: the number of the row with which to begin.
            in_order: whether rows come by their number; else shard by shard, as they are ready.
            follow: whether results are waited for, until the job has ended; else those come that there are.
        """
        wanted = ResultsWanted(from_row, in_order, follow)
        course = results(self._info, wanted, self._taker.around.patience(), self._taker.limits)
        for page in self._taker.given(course):
            yield from page

    def results_table(self, *, from_row: int = 0) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Return all results as a table of pyarrow, once it has ended: `row`, `id`, and a column for each output.

        Outputs of more than one value a row are flat lists. Raises `ConfigError` where pyarrow is not installed.
        """
        pyarrow = pyarrow_module()
        return table_of(self.results(from_row=from_row), pyarrow)

    def errors(self) -> Iterator[BadRow]:
        """Yield its bad rows, in order: the first 10,000 are kept."""
        yield from self._taker.given(watching.bad_rows(self.id, self._taker.around.patience()))

    def events(self, *, after: int = 0, follow: bool = False) -> Iterator[JobEvent]:
        """Yield what has happened to it, behind the event of number `after`; `follow`: also what happens until it has ended."""
        patience = self._taker.around.patience()
        yield from self._taker.given(watching.events(self.id, after, patience, follow=follow))

    def pause(self) -> JobInfo:
        """Stop it for a while; what is under way is still kept. Raises `JobConflict` where it has ended."""
        return self._keep(self._taker.result(watching.moved(self.id, "pause")))

    def resume(self) -> JobInfo:
        """Let it go on after a pause. Raises `JobConflict` where it has ended."""
        return self._keep(self._taker.result(watching.moved(self.id, "resume")))

    def cancel(self) -> JobInfo:
        """End it; results that there are remain. Raises `JobConflict` where it has ended otherwise."""
        return self._keep(self._taker.result(watching.moved(self.id, "cancel")))

    def _keep(self, info: JobInfo) -> JobInfo:
        self._info = info
        return info


class Files:
    """The files that a router keeps for a client's key: `client.files`."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker

    def create(
        self,
        data: Data | bytes,
        *,
        purpose: str = "user_data",
        filename: str = "",
        progress: Progress | None = None,
    ) -> FileInfo:
        """Upload a file, or other data as `Jobs.submit` takes them, and return what the router calls it.

        Args:
            data: a path, bytes, or other data.
            purpose: `user_data` for data of jobs, `batch` for requests in OpenAI's form.
            filename: the name that the file gets; empty: its own.
            progress: a function that is told how many bytes of how many the router has.
        """
        course = file_courses.created(data, purpose, filename, self._taker.around, progress)
        return self._taker.result(course)

    def list(self, *, purpose: str = "") -> Iterator[FileInfo]:
        """Yield all files of the key's tenant; `purpose` leaves out those for another one."""
        patience = self._taker.around.patience(is_known=False)
        yield from self._taker.given(file_courses.listed(purpose, patience))

    def get(self, id: str) -> FileInfo:  # noqa: A002 - the router's own word
        """Return a file's name, size and purpose."""
        return cast("FileInfo", self._taker.exchange(repeated(ask_file(id))))

    def delete(self, id: str) -> None:  # noqa: A002 - the router's own word
        """Remove a file."""
        self._taker.exchange(repeated(ask_delete(id)))

    def content(self, id: str) -> Iterator[bytes]:  # noqa: A002 - the router's own word
        """Yield the bytes of a file, a piece at a time, over lost connections."""
        patience = self._taker.around.patience(is_known=False)
        yield from self._taker.given(file_courses.content(id, patience))
