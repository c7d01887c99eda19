"""The course of submitting a job: what the router is told of it, after its data are where the router can read them. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from capamesh.client.asks import Ask, ask_metadata
from capamesh.client.class_scores import checked_classes
from capamesh.client.jobs.asks import ask_jobs, ask_promise, ask_submit, repeated
from capamesh.client.jobs.data import FORMATS, Data, source_of, url_of
from capamesh.client.jobs.patience import Patience
from capamesh.client.jobs.steps import Course, Work, asked
from capamesh.client.jobs.uploads import Progress, removed, uploaded
from capamesh.client.jobs.values import JobInfo, JobPromise
from capamesh.protocol.errors import CapameshError, InvalidRequest

Columns: TypeAlias = Mapping[str, str | Sequence[str]]
"""The column, or the columns side by side, that go into each input of the model."""
Deadline: TypeAlias = datetime | timedelta | float
"""A time, or how long from now, in seconds."""
PURPOSE: Final = "user_data"
_MOST_PAGES: Final = 10
"""The most pages of jobs that are looked through for a client key (guess: whoever submits again does so soon)."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobWanted:
    """A job as a caller asks for it, but for its data."""

    model: str
    version: str = ""
    columns: Columns | None = None
    id_column: str = ""
    format: str = ""
    output: str = ""
    output_format: str = ""
    classes: Mapping[str, int] = field(default_factory=dict[str, int])
    priority: int | None = None
    deadline: Deadline | None = None
    max_price: float | None = None
    regions: Sequence[str] = ()
    concurrency: int = 0
    most_bad_rows: int | None = None
    most_failures: int | None = None
    client_key: str = ""

    def body(self, url: str, form: str, now_s: float) -> dict[str, Any]:
        """Return the job as the router is told it; `now_s` is the time in seconds since 1970. Raises `InvalidRequest`."""
        if not self.model:
            raise InvalidRequest("the model's name is empty; see the list: capamesh models")
        source: dict[str, Any] = {"url": url}
        if form:
            source["format"] = form
        if self.columns is not None:
            source["columns"] = {name: _names(given) for name, given in self.columns.items()}
        if self.id_column:
            source["id_column"] = self.id_column
        classes = dict(checked_classes(self.classes))
        output = {"url": self.output, "format": self.output_format, "classes": classes}
        failure = {"most_bad_rows": self.most_bad_rows, "most_failures": self.most_failures}
        deadline_s = None if self.deadline is None else deadline_of(self.deadline, now_s)
        fields: dict[str, Any] = {
            "version": self.version,
            "output": {name: each for name, each in output.items() if each},
            "priority": self.priority,
            "deadline_s": deadline_s,
            "max_price": self.max_price,
            "regions": _names(self.regions),
            "concurrency": self.concurrency or None,
            "failure": {name: each for name, each in failure.items() if each is not None},
            "client_key": self.client_key or str(uuid.uuid4()),
        }
        given = {name: each for name, each in fields.items() if each not in (None, "", {}, [])}
        return {"model": self.model, "input": source, **given}


def deadline_of(deadline: Deadline, now_s: float) -> float:
    """Return a deadline in seconds since 1970; raise `InvalidRequest` for what is none."""
    if isinstance(deadline, datetime):
        return deadline.timestamp()
    lasts_s = deadline.total_seconds() if isinstance(deadline, timedelta) else deadline
    if type(lasts_s) not in {int, float} or not 0 < lasts_s < 1e10:
        raise InvalidRequest(
            f"deadline is {deadline!r:.80}; give a datetime, or how many seconds from now, above 0"
        )
    return now_s + lasts_s


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The clocks and the chance that a course needs."""

    clock: Callable[[], float]
    """The time in seconds, which never goes back."""
    wall_s: Callable[[], float]
    """The time in seconds since 1970."""
    draw: Callable[[], float]
    """A random number from 0 to below 1."""

    def patience(self, *, is_known: bool = True) -> Patience:
        """Return new patience; `is_known`: a router has answered before."""
        return Patience(self.clock, self.draw, is_known=is_known)


def submitted(
    data: Data, wanted: JobWanted, around: Surroundings, progress: Progress | None
) -> Course[JobInfo]:
    """Submit a job, and return it as it is then."""
    if wanted.client_key and not url_of(data):
        # an upload has another name each time, by which the router would take the job for another one
        known = yield from _known(wanted)
        if known is not None:
            return known
    return (yield from _told(data, wanted, around, progress, ask_submit, is_kept=True))


def promised(
    data: Data, wanted: JobWanted, around: Surroundings, progress: Progress | None
) -> Course[JobPromise]:
    """Return when a job would end; what is uploaded for that is removed again."""
    return (yield from _told(data, wanted, around, progress, ask_promise, is_kept=False))


def _told(
    data: Data,
    wanted: JobWanted,
    around: Surroundings,
    progress: Progress | None,
    ask: Callable[[Mapping[str, Any]], Ask[T]],
    *,
    is_kept: bool,
) -> Course[T]:
    """Upload the data where the router cannot read them, and ask about the job; remove them again unless the job keeps them."""
    url, form = url_of(data), wanted.format
    if url:
        body = wanted.body(url, form, around.wall_s())
        told: T = yield repeated(ask(body))
        return told
    wanted.body("", "", around.wall_s())  # what is wrong is told before anything is uploaded
    patience = around.patience(is_known=False)
    yield repeated(ask_metadata(wanted.model, wanted.version))  # likewise a model that nobody has
    source = yield Work(partial(source_of, data))
    try:
        form = form or source.form
        if not form:
            raise InvalidRequest(
                f"the end of the name {source.name!r} does not tell the form of its rows; give format=, one of "
                f"{', '.join(dict.fromkeys(FORMATS.values()))}"
            )
        file = yield from uploaded(source, PURPOSE, patience, around.clock, progress)
    finally:
        source.close()
    body = wanted.body(f"upload:{file}", form, around.wall_s())
    try:
        found = yield from asked(ask(body), patience)
    except CapameshError as error:
        if not error.is_retryable:  # else the job may be there all the same
            yield from removed(file)
        raise
    if not is_kept:
        yield from removed(file)
    return found


def _known(wanted: JobWanted) -> Course[JobInfo | None]:
    """Return the job that was submitted before under the client key, of the newest thousand; None: there is none."""
    after, has_more, pages = "", True, 0
    while has_more and pages < _MOST_PAGES:
        told: tuple[list[JobInfo], bool] = yield repeated(ask_jobs(after, ""))
        page, has_more = told
        for info in page:
            if info.spec.get("client_key") == wanted.client_key and info.model == wanted.model:
                return info
        after = page[-1].id if page else ""
        pages += 1
    return None


def _names(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
