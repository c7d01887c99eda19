"""`capamesh jobs`: have a model run over a whole data set, look at how far that is, get the results. Arguments and printing only."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capamesh.cli import jobs_submit, options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, Key
from capamesh.cli.help_texts import examples, new_group, teach
from capamesh.cli.jobs_common import JobName, client_of, job_of, next_of, told_of_end, told_of_move

if TYPE_CHECKING:
    from collections.abc import Iterator

    from capamesh.client import BadRow, JobEvent

group = new_group(
    "Have a model run over a whole data set, with what the network's nodes have to spare.",
    examples(
        "capamesh jobs submit rows.csv --model digits --watch",
        "capamesh jobs ls",
        "capamesh jobs results job-018c9a -o results.parquet   all rows, also while it runs",
    ),
)
group.callback(invoke_without_command=True)(teach)
group.command("submit", epilog=jobs_submit.EPILOG)(jobs_submit.submit)


class FileFormat(StrEnum):
    """The form of results that `capamesh jobs results` writes."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    NPZ = "npz"


class State(StrEnum):
    """The state of a job."""

    PLANNING = "planning"
    RUNNING = "running"
    BLOCKED = "blocked"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@group.command(
    epilog=examples(
        "capamesh jobs ls --state running",
        "capamesh jobs ls --limit 1000 --json   for programs",
    )
)
def ls(
    state: Annotated[
        State | None, typer.Option("--state", help="Only those that are in it.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="COUNT", min=1, help="The most that are shown.")
    ] = 20,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """List jobs, the newest first: those of the key's tenant, or all where the router asks for no key."""
    from itertools import islice  # noqa: PLC0415 - help starts faster

    from capamesh.cli.jobs_view import COLUMNS, json_of, row_of  # noqa: PLC0415 - the same
    from capamesh.cli.printing import hint, print_json, print_table  # noqa: PLC0415 - the same

    with client_of(router, key, header, ca, cert, cert_key) as client:
        found = [
            job.info
            for job in islice(client.jobs.list(state=state.value if state else ""), limit + 1)
        ]
    shown = found[:limit]
    if as_json:
        print_json([json_of(info) for info in shown])
        return
    print_table(COLUMNS, [row_of(info) for info in shown])
    if len(found) > limit:
        hint(f"there are more than {limit}: give --limit")
    if not found:
        hint("there is no job; Next: capamesh jobs submit DATA --model NAME")


@group.command(epilog=examples("capamesh jobs show last", "capamesh jobs show job-018c9a --json"))
def show(
    job: JobName,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Show all that is known of JOB, and the first of its bad rows."""
    from itertools import islice  # noqa: PLC0415 - help starts faster

    from capamesh.cli.jobs_view import BAD_COLUMNS, bad_row_cells, facts_of, json_of  # noqa: PLC0415 - the same
    from capamesh.cli.printing import print_fields, print_json, print_table  # noqa: PLC0415 - the same

    with client_of(router, key, header, ca, cert, cert_key) as client:
        found = job_of(client, job)
        info = found.info
        bad = list(islice(found.errors(), 10)) if info.done.bad_rows else []
    if as_json:
        import dataclasses  # noqa: PLC0415 - the same

        print_json({**json_of(info), "bad": [dataclasses.asdict(row) for row in bad]})
        return
    print_fields(facts_of(info))
    if bad:
        print()
        print_table(BAD_COLUMNS, [bad_row_cells(row) for row in bad])
    next_of(info)


@group.command(
    epilog=examples(
        "capamesh jobs watch last && echo done",
        "capamesh jobs watch job-018c9a --json   a line of JSON each second",
    )
)
def watch(
    job: JobName,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Watch JOB until it has ended: rows a second, nodes, bad rows, and the time that is left. Exit status 0 if it is completed.

    A router that restarts is waited for. Ctrl-C leaves the job running.
    """
    from capamesh.cli.jobs_watch import end_of, watch_job  # noqa: PLC0415 - help starts faster

    with client_of(router, key, header, ca, cert, cert_key) as client:
        ended = watch_job(job_of(client, job), as_json=as_json)
    told_of_end(ended, as_json=as_json)
    raise typer.Exit(end_of(ended))


@group.command(
    epilog=examples(
        "capamesh jobs logs job-018c9a",
        "capamesh jobs logs job-018c9a --follow   until it has ended",
        "capamesh jobs logs job-018c9a --bad-rows   the rows without a result, and why",
    )
)
def logs(
    job: JobName,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for what happens until it has ended.")
    ] = False,
    bad_rows: Annotated[
        bool,
        typer.Option("--bad-rows", help="The rows without a result, of which 10,000 are kept."),
    ] = False,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Print what has happened to JOB, a line each."""
    import dataclasses  # noqa: PLC0415 - help starts faster
    import json  # noqa: PLC0415 - the same

    from capamesh.cli.jobs_view import bad_row_line, event_line  # noqa: PLC0415 - the same
    from capamesh.cli.printing import print_lines  # noqa: PLC0415 - the same

    if follow and bad_rows:
        raise typer.BadParameter("give one of --follow and --bad-rows", param_hint="--follow")
    with client_of(router, key, header, ca, cert, cert_key) as client:
        found = job_of(client, job)
        told: Iterator[tuple[BadRow | JobEvent, str]]
        if bad_rows:
            told = ((each, bad_row_line(each)) for each in found.errors())
        else:
            told = ((each, event_line(each)) for each in found.events(follow=follow))
        for each, line in told:
            if as_json:
                print(json.dumps(dataclasses.asdict(each)), flush=True)
            else:
                print_lines([line])
                sys.stdout.flush()


@group.command(
    epilog=examples(
        "capamesh jobs results job-018c9a -o results.jsonl   given again, it goes on where it was",
        "capamesh jobs results job-018c9a -o results.parquet   or .csv, or .npz",
        "capamesh jobs results job-018c9a --no-wait | head   those that there are",
    )
)
def results(
    job: JobName,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The file; standard output by default."
        ),
    ] = None,
    form: Annotated[
        FileFormat | None,
        typer.Option("--format", help="The form; as the file's ending says, jsonl by default."),
    ] = None,
    from_row: Annotated[
        int, typer.Option("--from-row", metavar="ROW", min=0, help="The first row.")
    ] = 0,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Only those that there are; else until it has ended.")
    ] = False,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Get the results of JOB, by the order of its rows, while it runs too. Rows without a result are left out.

    A connection that breaks is replaced. A command that was broken off goes on with the lines of JSON that it has written beside
    FILE; other forms begin anew. --json prints, at the end, how many rows were written.
    """
    from capamesh.cli.jobs_fetch import fetch  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import hint, print_json  # noqa: PLC0415 - the same

    with client_of(router, key, header, ca, cert, cert_key) as client:
        found = job_of(client, job)
        rows = fetch(
            found,
            output,
            form.value if form else "",
            from_row=from_row,
            follow=not no_wait,
        )
    if as_json and output is not None:
        print_json({"job": found.id, "rows": rows, "file": str(output), "state": found.state})
    elif output is not None:
        bad = found.info.done.bad_rows
        hint(
            f"{rows:,} rows are in {output}"
            + (f"; {bad:,} have no result: capamesh jobs logs {found.id} --bad-rows" if bad else "")
        )


@group.command(epilog=examples("capamesh jobs pause job-018c9a"))
def pause(
    job: JobName,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Stop JOB for a while; what is under way is still kept."""
    with client_of(router, key, header, ca, cert, cert_key) as client:
        told_of_move(job_of(client, job).pause(), as_json=as_json)


@group.command(epilog=examples("capamesh jobs resume job-018c9a"))
def resume(
    job: JobName,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Let JOB go on after a pause."""
    with client_of(router, key, header, ca, cert, cert_key) as client:
        told_of_move(job_of(client, job).resume(), as_json=as_json)


@group.command(epilog=examples("capamesh jobs cancel job-018c9a"))
def cancel(
    job: JobName,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """End JOB for good; the results that there are remain."""
    with client_of(router, key, header, ca, cert, cert_key) as client:
        told_of_move(job_of(client, job).cancel(), as_json=as_json)
