"""Names the job that commands are for, makes the client that they ask, and says what comes next. Prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from capamesh.cli import options
from capamesh.cli.access import access

if TYPE_CHECKING:
    from capamesh.client import Client, Job, JobInfo

JobName: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="JOB", help="Its id, which `capamesh jobs ls` shows; last: the newest."),
]
LAST: Final = "last"
"""Stands for the newest job."""


def client_of(
    router: str,
    key: str | None,
    header: list[str] | None,
    ca: Path | None,
    cert: Path | None,
    cert_key: Path | None,
) -> Client:
    """Return a client of the routers that the options name."""
    from capamesh.client import Client  # noqa: PLC0415 - help starts faster

    return Client(
        options.several(router),
        **access(header, ca, key, cert=cert, cert_key=cert_key, router=router),
    )


def job_of(client: Client, name: str) -> Job:
    """Return the job that is meant. Raises `JobNotFound`."""
    if name != LAST:
        return client.jobs.get(name)
    newest = next(client.jobs.list(), None)
    if newest is None:
        from capamesh.client import JobNotFound  # noqa: PLC0415 - help starts faster

        raise JobNotFound("there is no job yet; submit one: capamesh jobs submit DATA --model NAME")
    return newest


def told_of_move(info: JobInfo, *, as_json: bool) -> None:
    """Say how a job is after it was paused, resumed or cancelled."""
    from capamesh.cli.jobs_view import json_of  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import print_json, say  # noqa: PLC0415 - the same

    if as_json:
        print_json(json_of(info))
        return
    say(f"job {info.id} is {info.state}")
    next_of(info)


def told_of_end(info: JobInfo, *, as_json: bool) -> None:
    """Say how a job has ended."""
    from capamesh.cli.jobs_view import end_sentence  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import say  # noqa: PLC0415 - the same

    if not as_json:
        say(end_sentence(info))
        next_of(info)


def next_of(info: JobInfo) -> None:
    """Say which commands come next, for a person."""
    from capamesh.cli.jobs_view import next_commands  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import hint  # noqa: PLC0415 - the same

    hint(next_commands(info))
