"""Watches a job to its end: a bar on a terminal, a line at each step elsewhere. IO: prints, reads the clock."""

from __future__ import annotations

import json
import sys
from time import sleep
from time import time as now_s
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from capamesh.cli.jobs_view import json_of, part_done, span, standing, when
from capamesh.cli.printing import hint
from capamesh.protocol.plain_text import plain

if TYPE_CHECKING:
    from capamesh.client import Job, JobInfo

EVERY_S = 1.0
"""The time between two looks (guess: as often as a person wants to see something move)."""
STEP = 0.1
"""The part of a job after which another line is printed where there is no terminal."""
INTERRUPTED = 130
_LOOKS = 8
_LOOK_S = 0.25
"""The time between two looks at a new job: two seconds together, in which a router plans a small one (guess)."""


def watch_job(job: Job, *, as_json: bool) -> JobInfo:
    """Show how a job is until it has ended, and return that; Ctrl-C leaves it running, and ends the command."""
    try:
        if as_json:
            return _lines_of_json(job)
        return _bar(job) if sys.stderr.isatty() else _lines(job)
    except KeyboardInterrupt:
        hint(
            f"job {job.id} goes on without you: capamesh jobs watch {job.id}   or end it: capamesh jobs cancel {job.id}"
        )
        raise typer.Exit(INTERRUPTED) from None


def promised_end(job: Job) -> str:
    """Return when a new job will end, as a sentence, once its router has planned it; empty: that is not known soon."""
    for _ in range(_LOOKS):
        info = job.refresh()
        if info.is_ended:
            break
        if info.ends_at is not None:
            return f"it will end in {span(info.ends_at - now_s())}, at {when(info.ends_at)}"
        sleep(_LOOK_S)
    return ""


def end_of(info: JobInfo) -> int:
    """Return the exit status for how a job has ended."""
    return 0 if info.state == "completed" else 1


def _bar(job: Job) -> JobInfo:
    bar = Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    info = job.info
    with bar:
        task = bar.add_task(_text(info), total=1.0)
        for info in job.follow(EVERY_S):
            bar.update(task, completed=part_done(info), description=_text(info))
    return info


def _lines(job: Job) -> JobInfo:
    info, shown, state = job.info, -1.0, ""
    for info in job.follow(EVERY_S):
        if info.state != state or part_done(info) >= shown + STEP:
            hint(_text(info))
            shown, state = part_done(info), info.state
    return info


def _lines_of_json(job: Job) -> JobInfo:
    info = job.info
    for info in job.follow(EVERY_S):
        print(json.dumps(json_of(info), allow_nan=False), flush=True)
    return info


def _text(info: JobInfo) -> str:
    return plain(standing(info, now_s()))
