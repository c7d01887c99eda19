"""`capamesh dev`: a network on this machine, to try things. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capamesh.cli import front_options, options
from capamesh.cli.help_texts import examples, new_group, teach

group = new_group(
    "Try it: a whole network on this machine.",
    examples("capamesh dev up   one router, three nodes, sample models"),
)
group.callback(invoke_without_command=True)(teach)


@group.command(
    epilog=examples(
        "capamesh dev up",
        "capamesh dev up --models ./models --nodes 2 --data ./dev   your models; the folder is kept",
        "capamesh models   the next step, in another terminal",
    )
)
def up(
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=64, help="How many nodes.")] = 3,
    models: Annotated[
        Path | None,
        typer.Option(
            "--models", metavar="DIR", help="The models of every node; samples by default."
        ),
    ] = None,
    http: Annotated[
        str, typer.Option("--http", metavar="HOST:PORT", help="Where clients come in.")
    ] = "127.0.0.1:8000",
    is_insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Let clients of other machines in at --http."),
    ] = False,
    allow_host: front_options.AllowHost = None,
    allow_origin: front_options.AllowOrigin = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Keep everything here; by default it is deleted at the end.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Start a router and nodes, wait until they serve, and stop them all at Ctrl-C."""
    from capamesh.cli.cluster_session import run_session  # noqa: PLC0415 - help starts faster
    from capamesh.cli.parsing import host_and_port  # noqa: PLC0415 - the same

    host_and_port(http, "--http")
    if models is not None:
        options.refuse_file_as_folder(models, "--models")
    router_options = front_options.page_options(allow_host, allow_origin)
    run_session(models, nodes, http, data, router_options, is_insecure=is_insecure, as_json=as_json)
