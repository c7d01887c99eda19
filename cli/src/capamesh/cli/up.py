"""`capamesh up` and `capamesh join`: this machine's part in a network by one command. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capamesh.cli import front_options, options
from capamesh.cli.help_texts import examples
from capamesh.cli.parsing import host_and_port
from capamesh.cli.ports import MOST_FIRST

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="CAPAMESH_HOME",
        metavar="DIR",
        help="Where this machine keeps its networks.  [default: ~/.local/share/capamesh]",
        show_default=False,
    ),
]
Models = Annotated[
    Path | None,
    typer.Option(
        "--models",
        metavar="DIR",
        help="The models: NAME/VERSION/model.onnx, or NAME.onnx.  [default: those of the last start, or samples]",
        show_default=False,
    ),
]

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="PORT",
        min=0,
        max=MOST_FIRST,
        help="The first of the ports for members; 0: any free ones.  [default: those of the last start, or 4001, 4002, 4100, 4200]",
        show_default=False,
    ),
]

Metrics = Annotated[
    str,
    typer.Option(
        "--metrics",
        metavar="HOST:PORT",
        help="Serve the node's metrics for Prometheus at http://HOST:PORT/metrics.  [default: as at the last start, or nowhere]",
        show_default=False,
    ),
]

Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Let clients of other machines in at --http: nothing is encrypted there. Remembered with --http.",
    ),
]

UP_EPILOG = examples(
    "capamesh up   a network of your own, with sample models; prints the line for other machines",
    "capamesh up --models ./models   with your models; the next start remembers the folder",
    "capamesh infer digits --input X=@picture.npy   the next step, in another terminal: it prints one that works",
)
JOIN_EPILOG = examples(
    "capamesh join TOKEN   on another machine: the line that `capamesh up` prints",
    "capamesh join TOKEN --models ./models",
    "capamesh join - < node.token   without showing the token to other users of this machine",
)


def up(
    models: Models = None,
    home: Home = None,
    http: Annotated[
        str,
        typer.Option(
            "--http",
            metavar="HOST:PORT",
            help="Where clients come in.  [default: that of the last start, or 127.0.0.1:8000]",
            show_default=False,
        ),
    ] = "",
    is_insecure: Insecure = False,
    allow_host: front_options.AllowHost = None,
    allow_origin: front_options.AllowOrigin = None,
    is_local: Annotated[
        bool,
        typer.Option(
            "--local", help="Listen on this machine alone: no other machine can join meanwhile."
        ),
    ] = False,
    port: Port = None,
    metrics: Metrics = "",
    advertise: options.Advertise = "",
    name: options.Name = "",
    as_json: options.Json = False,
) -> None:
    """Make a network, or resume the one made here: a router and a node on this machine, until Ctrl-C.

    It prints what to try, and the one line by which another machine joins. Members alone can use the ports that it opens to
    other machines; clients come in at --http. With other ports it has a new line for other machines.
    """
    from capamesh.cli.up_session import run_up  # noqa: PLC0415 - help starts faster

    if http:
        host_and_port(http, "--http")
    if metrics:
        host_and_port(metrics, "--metrics")
    if models is not None:
        options.refuse_file_as_folder(models, "--models")
    run_up(
        home,
        models,
        http,
        port,
        metrics,
        advertise,
        name,
        front_options.page_options(allow_host, allow_origin),
        is_insecure=is_insecure,
        is_local=is_local,
        as_json=as_json,
    )


def join(
    token: Annotated[
        str,
        typer.Argument(metavar="TOKEN", help="The token that `capamesh up` printed; -: read it."),
    ],
    models: Models = None,
    home: Home = None,
    is_dial_only: Annotated[
        bool,
        typer.Option(
            "--dial-only", help="Nobody can reach this machine: dial the routers instead."
        ),
    ] = False,
    port: Port = None,
    metrics: Metrics = "",
    advertise: options.Advertise = "",
    name: options.Name = "",
) -> None:
    """Join a network with a node on this machine, until Ctrl-C. Run it again to resume, or to take a newer token."""
    from capamesh.cli.up_session import run_join  # noqa: PLC0415 - help starts faster

    if metrics:
        host_and_port(metrics, "--metrics")
    if models is not None:
        options.refuse_file_as_folder(models, "--models")
    run_join(
        options.token_argument(token),
        home,
        models,
        port,
        metrics,
        advertise,
        name,
        is_dial_only=is_dial_only,
    )
