"""The courses of looking at a job: until it ends, its events, its bad rows, and lists. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from capamesh.client.asks import Ask
from capamesh.client.jobs.asks import (
    ask_bad_rows,
    ask_events,
    ask_job,
    ask_jobs,
    ask_move,
    repeated,
)
from capamesh.client.jobs.patience import Patience
from capamesh.client.jobs.steps import Course, Give, Pause, asked
from capamesh.client.jobs.values import JobInfo
from capamesh.protocol.errors import DeadlineExceeded, JobConflict

FIRST_POLL_S: Final = 0.2
MOST_POLL_S: Final = 2.0
"""The longest time between two questions how a job is (guess: a shard takes five seconds)."""
EVENTS_S: Final = 1.0
"""The time between two questions for events (guess: a person reads them)."""
_AFTER: Final = {
    "pause": frozenset({"paused"}),
    "resume": frozenset({"planning", "running", "blocked"}),
    "cancel": frozenset({"cancelled"}),
}
"""The states in which a job is after it was told so."""
T = TypeVar("T")


def watched(job: str, patience: Patience, every_s: float) -> Course[None]:
    """Give how a job is, at once and after each `every_s` until it has ended."""
    while True:
        info = yield from asked(ask_job(job), patience)
        yield Give(info)
        if info.is_ended:
            return
        yield Pause(every_s)


def waited(
    job: str, patience: Patience, clock: Callable[[], float], timeout_s: float | None
) -> Course[JobInfo]:
    """Return how a job has ended; raise `DeadlineExceeded` when it has not within `timeout_s`, None: however long that takes."""
    end_s = float("inf") if timeout_s is None else clock() + timeout_s
    rest_s = FIRST_POLL_S
    while True:
        info = yield from asked(ask_job(job), patience)
        if info.is_ended:
            return info
        left_s = end_s - clock()
        if left_s <= 0:
            raise DeadlineExceeded(
                f"job {job} is {info.state} after {timeout_s:g} s, and goes on: wait again, or cancel it"
            )
        yield Pause(min(rest_s, left_s))
        rest_s = min(MOST_POLL_S, rest_s * 1.5)


def moved(job: str, verb: str) -> Course[JobInfo]:
    """Have a job `pause`, `resume` or `cancel`, and return it; one that has done so before is as well.

    Raises:
        JobConflict: it cannot, in the state that it is in.
    """
    info: JobInfo
    try:
        info = yield repeated(ask_move(job, verb))
    except JobConflict:
        info = yield ask_job(job)
        if info.state not in _AFTER[verb]:
            raise
    return info


def events(job: str, after: int, patience: Patience, *, follow: bool) -> Course[None]:
    """Give the events of a job behind one, those that come until it ends too where `follow` says so."""
    while True:
        is_last = not follow
        if follow:
            info = yield from asked(ask_job(job), patience)
            is_last = info.is_ended
        while True:
            found = yield from asked(ask_events(job, after), patience)
            fresh = [event for event in found if event.seq > after]
            if not fresh:
                break
            for event in fresh:
                yield Give(event)
                after = max(after, event.seq)
        if is_last:
            return
        yield Pause(EVENTS_S)


def bad_rows(job: str, patience: Patience) -> Course[None]:
    """Give the bad rows of a job, as far as the router keeps them, in order."""
    after, has_more = -1, True
    while has_more:
        page, has_more = yield from asked(ask_bad_rows(job, after), patience)
        for row in page:
            if row.row > after:
                yield Give(row)
        last = max((row.row for row in page), default=after)
        has_more = has_more and last > after
        after = last


def listed(state: str, patience: Patience) -> Course[None]:
    """Give the jobs of the caller, the newest first, only those in a state where one is named."""
    return (yield from paged(lambda after: ask_jobs(after, state), lambda info: info.id, patience))


def paged(
    ask: Callable[[str], Ask[tuple[list[T], bool]]], name: Callable[[T], str], patience: Patience
) -> Course[None]:
    """Give the entries of a list of pages; `ask` returns the question for the page behind an entry, which `name` names."""
    after, has_more = "", True
    while has_more:
        page, has_more = yield from asked(repeated(ask(after)), patience)
        for entry in page:
            yield Give(entry)
        last = name(page[-1]) if page else after
        has_more = has_more and last != after
        after = last
