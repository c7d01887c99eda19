"""`capamesh up` and `capamesh join`: this machine's part in a network by one command. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capamesh.cli import front_options, options
from capamesh.cli.help_texts import examples
from capamesh.cli.parsing import host_and_port
from capamesh.cli.ports import MOST_FIRST
from capamesh.cli.units import size_bytes

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
        envvar="CAPAMESH_MODELS",
        metavar="DIR",
        help="The models: NAME/VERSION/model.onnx, or NAME.onnx.  [default: those of the last start, or samples]",
        show_default=False,
    ),
]
Samples = Annotated[
    bool,
    typer.Option(
        "--samples", help="Serve the samples again, and no longer the folder of the last start."
    ),
]

Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        envvar="CAPAMESH_PORT",
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
        envvar="CAPAMESH_METRICS",
        metavar="HOST:PORT",
        help="Serve the node's metrics for Prometheus at http://HOST:PORT/metrics.  [default: as at the last start, or nowhere]",
        show_default=False,
    ),
]

Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        envvar="CAPAMESH_INSECURE",
        help="Let clients of other machines in at --http: nothing is encrypted there. Remembered with --http.",
    ),
]

UP_EPILOG = examples(
    "capamesh up   a network of your own, with sample models; prints what to try",
    "capamesh up --models ./models   with your models; the next start remembers the folder",
    "capamesh infer digits --input X=@picture.npy   the next step, in another terminal: it prints one that works",
)
TOKEN_EPILOG = examples(
    "capamesh token   for `capamesh join` on another machine",
    "capamesh token | ssh gpu-1 capamesh join -   without showing it",
)
JOIN_EPILOG = examples(
    "capamesh join TOKEN   on another machine, with what `capamesh token` prints on the first",
    "capamesh join TOKEN --models ./models",
    "capamesh join - < node.token   without showing the token to other users of this machine",
)


def up(
    models: Models = None,
    is_samples: Samples = False,
    home: Home = None,
    http: Annotated[
        str,
        typer.Option(
            "--http",
            envvar="CAPAMESH_HTTP",
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
    region: options.Region = "",
    price: options.Price = None,
    threads: options.Threads = None,
    memory_limit: options.MemoryLimit = None,
    as_json: options.Json = False,
) -> None:
    """Make a network, or resume the one made here: a router and a node on this machine, until Ctrl-C.

    It prints what to try, and how another machine joins. Members alone can use the ports that it opens to
    other machines; clients come in at --http. With other ports there is a new token for other machines.

    Variables of `capamesh node run` and `capamesh router run` that are no options here are passed on.
    """
    from capamesh.cli.up_session import run_up  # noqa: PLC0415 - help starts faster

    if http:
        host_and_port(http, "--http")
    if metrics:
        host_and_port(metrics, "--metrics")
    run_up(
        home,
        _models(models, is_samples=is_samples),
        http,
        port,
        metrics,
        advertise,
        name,
        _node_options(region, price, threads, memory_limit),
        front_options.page_options(allow_host, allow_origin),
        is_insecure=is_insecure,
        is_local=is_local,
        as_json=as_json,
    )


def join(
    token: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN", help="The token that `capamesh token` printed; -: read it."
        ),
    ],
    models: Models = None,
    is_samples: Samples = False,
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
    region: options.Region = "",
    price: options.Price = None,
    threads: options.Threads = None,
    memory_limit: options.MemoryLimit = None,
) -> None:
    """Join a network with a node on this machine, until Ctrl-C. Run it again to resume, or to take a newer token."""
    from capamesh.cli.up_session import run_join  # noqa: PLC0415 - help starts faster

    if metrics:
        host_and_port(metrics, "--metrics")
    run_join(
        options.token_argument(token),
        home,
        _models(models, is_samples=is_samples),
        port,
        metrics,
        advertise,
        name,
        _node_options(region, price, threads, memory_limit),
        is_dial_only=is_dial_only,
    )


def token(home: Home = None) -> None:
    """Print the token by which other machines join the network that `capamesh up` runs here. It is a secret."""
    from capamesh.cli.up_session import kept_token  # noqa: PLC0415 - help starts faster

    print(kept_token(home))


def _models(models: Path | None, *, is_samples: bool) -> str | None:
    """Return the folder of models that is asked for; empty: the samples, None: that of the last start."""
    if models is None:
        return "" if is_samples else None
    if is_samples:
        raise typer.BadParameter("give one of --models and --samples", param_hint="--samples")
    options.refuse_file_as_folder(models, "--models")
    return str(models.absolute())


def _node_options(
    region: str, price: float | None, threads: int | None, memory_limit: str | None
) -> dict[str, str]:
    """Return what is asked of the node, as options of `capamesh node run`."""
    if memory_limit is not None:
        size_bytes(memory_limit, "--memory-limit")
    given = {
        "--region": region or None,
        "--price": price,
        "--threads": threads,
        "--memory-limit": memory_limit,
    }
    return {name: str(value) for name, value in given.items() if value is not None}
