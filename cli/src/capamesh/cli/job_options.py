"""The options of a router that are about batch jobs. Pure but for the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from capamesh.cli.parsing import mebibytes

JOBS_VARIABLE: Final = "CAPAMESH_JOBS"
PANEL: Final = "Batch jobs"

Jobs: TypeAlias = Annotated[
    str,
    typer.Option(
        "--jobs",
        envvar=JOBS_VARIABLE,
        metavar="PLACE",
        rich_help_panel=PANEL,
        help="The store of batch jobs, where it is not jobs.db in --data: a file, which routers of one machine may share, or"
        " postgresql://USER@HOST/DATABASE, which all may. With a password, rather set the variable.",
        show_default=False,
    ),
]
NoJobs: TypeAlias = Annotated[
    bool,
    typer.Option("--no-jobs", rich_help_panel=PANEL, help="Keep no batch jobs, and run none."),
]
JobsFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--jobs-folder",
        envvar="CAPAMESH_JOBS_FOLDER",
        metavar="DIR",
        rich_help_panel=PANEL,
        help="Uploaded files and results, where they are not in jobs in --data: the same folder for all routers that share --jobs.",
        show_default=False,
    ),
]
JobsPlace: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--jobs-place",
        envvar="CAPAMESH_JOBS_PLACE",
        metavar="PREFIX",
        rich_help_panel=PANEL,
        help="A folder, or the beginning of URLs such as s3://bucket/, below which jobs may read and write, besides files that clients"
        " upload. All who may submit jobs can read what is there. Repeatable.",
        show_default=False,
    ),
]
UploadMib: TypeAlias = Annotated[
    int,
    typer.Option(
        "--upload-mib",
        envvar="CAPAMESH_UPLOAD_MIB",
        metavar="MIB",
        parser=mebibytes(0),
        rich_help_panel=PANEL,
        help="Uploaded files of one tenant, and where no key is asked for of one address; 0: an eighth of the disk, from 1 to 256 GiB.",
    ),
]


def read_jobs(place: str, *, is_without: bool) -> str | None:
    """Return the place of jobs, which is also taken out of the environment; None: there are to be none. A usage error for both."""
    os.environ.pop(JOBS_VARIABLE, None)  # the processes that a router starts are sent it
    if place and is_without:
        raise typer.BadParameter("give --jobs or --no-jobs, not both", param_hint="--no-jobs")
    return None if is_without else place
