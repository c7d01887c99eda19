"""`capamesh jobs submit`: have a model run over a whole data set. Arguments and printing only."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, Key
from capamesh.cli.help_texts import examples
from capamesh.cli.jobs_common import client_of, told_of_end
from capamesh.cli.parsing import columns, deadline, names

EPILOG = examples(
    "capamesh jobs submit rows.csv --model digits --column X=pixels",
    "capamesh jobs submit rows.parquet --model iris --column X=sepal_length,sepal_width,petal_length,petal_width --watch",
    "capamesh jobs submit s3://bucket/texts.jsonl --model minilm --output s3://bucket/vectors/ --output-format parquet",
    "capamesh jobs submit rows.npy --model digits --deadline 2h --dry-run   would it be done in time?",
    'capamesh jobs watch "$(capamesh jobs submit rows.csv --model digits)"   the id alone is on standard output',
)
_LOOK: Final = "Data and results"
_BOUNDS: Final = "Bounds"


class InputFormat(StrEnum):
    """The form of a data set."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"
    NPY = "npy"
    NPZ = "npz"
    FOLDER = "folder"


class OutputFormat(StrEnum):
    """The form of results that a router writes."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    NPZ = "npz"


def submit(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A file of this machine, which is uploaded, or a URL that the router reads itself: s3://…, file:///….",
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="The model's name.")],
    version: Annotated[
        str, typer.Option("--version", help="Which version; the router's choice by default.")
    ] = "",
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            "-c",
            metavar="INPUT=COLUMN,...",
            rich_help_panel=_LOOK,
            help="The column for an input of the model, or several side by side; may be repeated. By default that of the input's"
            " name.",
        ),
    ] = None,
    id_column: Annotated[
        str,
        typer.Option(
            "--id-column",
            metavar="COLUMN",
            rich_help_panel=_LOOK,
            help="What names rows in the results; by default their numbers.",
        ),
    ] = "",
    form: Annotated[
        InputFormat | None,
        typer.Option(
            "--format", rich_help_panel=_LOOK, help="The form of DATA; as its name's ending says."
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="URL",
            rich_help_panel=_LOOK,
            help="The folder where the router writes results: s3://…/, file:///…/. By default it keeps them itself.",
        ),
    ] = "",
    output_format: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output-format",
            rich_help_panel=_LOOK,
            help="The form in which the router writes results; jsonl by default.",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top",
            metavar="COUNT",
            min=1,
            rich_help_panel=_LOOK,
            help="Of outputs of scores, only so many of each row, the largest, with the names of their classes.",
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            "--priority",
            metavar="NUMBER",
            min=1,
            max=255,
            rich_help_panel=_BOUNDS,
            help="1 goes first where there is too much to do, 255 last, which is the default.",
        ),
    ] = None,
    until: Annotated[
        str,
        typer.Option(
            "--deadline",
            metavar="TIME",
            rich_help_panel=_BOUNDS,
            help="How long from now, such as 2h, or a time by UTC, such as 2026-12-01T10:00. A job that cannot be done by then is"
            " refused; results that there are then remain.",
        ),
    ] = "",
    max_price: Annotated[
        float | None,
        typer.Option(
            "--max-price",
            metavar="PRICE",
            min=0.0,
            rich_help_panel=_BOUNDS,
            help="No dearer nodes than this, for a million rows.",
        ),
    ] = None,
    region: Annotated[
        str,
        typer.Option(
            "--region",
            metavar="NAME,...",
            rich_help_panel=_BOUNDS,
            help="Only nodes that say they are there.",
        ),
    ] = "",
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            metavar="COUNT",
            min=0,
            rich_help_panel=_BOUNDS,
            help="The most calls at a time; 0: as many as there is room for.",
        ),
    ] = 0,
    max_bad_rows: Annotated[
        int | None,
        typer.Option(
            "--max-bad-rows",
            metavar="COUNT",
            min=0,
            rich_help_panel=_BOUNDS,
            help="It fails with more rows than that which the model does not take; 1000 by default.",
        ),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option(
            "--max-failures",
            metavar="COUNT",
            min=1,
            max=100,
            rich_help_panel=_BOUNDS,
            help="It fails when a shard has failed so often; 10 by default.",
        ),
    ] = None,
    client_key: Annotated[
        str,
        typer.Option(
            "--client-key",
            metavar="TEXT",
            help="Your own name of the job: submitted again with it, it is the same job, and nothing is uploaded.",
        ),
    ] = "",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Watch it to its end, as `capamesh jobs watch`.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Run some rows, and only say when the job would end; nothing is submitted.",
        ),
    ] = False,
    router: options.Routers = options.DEFAULT_ROUTER,
    key: Key = None,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Submit a job: MODEL is run over all rows of DATA, and its id is printed. The router goes on with it by itself.

    A model of one input takes the column of the input's name, unless --column says otherwise. An upload that is broken off goes on
    where it was.
    """
    from capamesh.cli.class_table import wanted_classes  # noqa: PLC0415 - help starts faster
    from capamesh.cli.jobs_view import json_of, promise_of  # noqa: PLC0415 - help starts faster
    from capamesh.cli.jobs_watch import end_of, promised_end, watch_job  # noqa: PLC0415 - the same
    from capamesh.cli.printing import hint, print_json, say  # noqa: PLC0415 - the same
    from capamesh.cli.progress import parts  # noqa: PLC0415 - the same

    wanted: dict[str, Any] = {
        "model": model,
        "version": version,
        "columns": columns(column or (), "--column") or None,
        "format": form.value if form else "",
        "priority": priority,
        "deadline": deadline(until, "--deadline") if until else None,
        "max_price": max_price,
        "regions": names(region),
        "concurrency": concurrency,
    }
    with client_of(router, key, header, ca, cert, cert_key) as client:
        classes = wanted_classes(client.metadata(model, version), (), top) if top else {}
        with parts(f"uploading {Path(data).name}") as done:

            def sent(bytes_sent: int, total: int) -> None:
                done(bytes_sent / total if total else 1.0)

            wanted["progress"] = sent
            if dry_run:
                promise = client.jobs.promise(data, **wanted)
                print_json(dict(promise.fields)) if as_json else say(promise_of(promise))
                return
            job = client.jobs.submit(
                data,
                id_column=id_column,
                output=output,
                output_format=output_format.value if output_format else "",
                classes=classes,
                most_bad_rows=max_bad_rows,
                most_failures=max_failures,
                client_key=client_key,
                **wanted,
            )
        if as_json and not watch:
            print_json(json_of(job.info))
            return
        if not as_json:
            say(job.id)
        if watch:
            ended = watch_job(job, as_json=as_json)
            told_of_end(ended, as_json=as_json)
            raise typer.Exit(end_of(ended))
        end = promised_end(job)
        if end:
            hint(end)
        hint(
            f"Next: capamesh jobs watch {job.id}   until it has ended\n"
            f"Then: capamesh jobs results {job.id} -o results.jsonl   also while it runs"
        )
