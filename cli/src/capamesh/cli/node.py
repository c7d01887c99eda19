"""`capamesh node`: run a node, ask how one is. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, access
from capamesh.cli.help_texts import examples, new_group, teach
from capamesh.cli.parsing import duration, host_and_port, seconds
from capamesh.cli.units import size_bytes
from capamesh.protocol.quick_imports import quick_imports

group = new_group(
    "Provide compute: host ONNX models on this machine's devices.",
    examples(
        "capamesh node run --data my-network/node --models models --token-file node.token",
        "capamesh node status --data my-network/node   in another terminal",
        "capamesh node drain gpu-1 --dir network   by the network's owner: no new requests for a while",
    ),
)
group.callback(invoke_without_command=True)(teach)


@group.command(
    epilog=examples(
        "capamesh network token --role node --bootstrap MULTIADDR > node.token   by the network's owner",
        "capamesh node run --data my-network/node --models models --token-file node.token",
        "capamesh node run --data my-network/node --models models   later: the folder remembers the membership",
        "capamesh node run --data my-network/node --models models --dial-only   behind NAT",
        "capamesh node run --data my-network/node --models models --metrics 127.0.0.1:9100   for Prometheus",
    )
)
def run(
    data: options.Data,
    models: Annotated[
        Path,
        typer.Option(
            "--models",
            envvar="CAPAMESH_MODELS",
            metavar="DIR",
            help="The models: NAME/VERSION/model.onnx, or NAME.onnx.",
        ),
    ],
    token: options.Token = None,
    token_file: options.TokenFile = None,
    bootstrap: options.Bootstrap = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            envvar="CAPAMESH_HOST",
            metavar="HOST",
            rich_help_panel="Listening",
            help="Where to listen; 0.0.0.0: everywhere.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port",
            envvar="CAPAMESH_PORT",
            min=0,
            max=65535,
            rich_help_panel="Listening",
            help="The first device's link port, the next device has the next; 0: any free ones.",
        ),
    ] = 0,
    mesh_port: Annotated[
        int,
        typer.Option(
            "--mesh-port",
            envvar="CAPAMESH_MESH_PORT",
            min=0,
            max=65535,
            rich_help_panel="Network",
            help="The mesh's port.",
        ),
    ] = 0,
    advertise: options.Advertise = "",
    mdns: options.Mdns = False,
    name: options.Name = "",
    region: options.Region = "",
    price: options.Price = None,
    threads: options.Threads = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            "--max-in-flight",
            envvar="CAPAMESH_MAX_IN_FLIGHT",
            min=1,
            rich_help_panel="Limits",
            help="Requests that wait or run at one model; more are refused.  [default: 4096]",
            show_default=False,
        ),
    ] = None,
    max_streams: Annotated[
        int | None,
        typer.Option(
            "--max-streams",
            envvar="CAPAMESH_MAX_STREAMS",
            min=1,
            rich_help_panel="Limits",
            help="Answers in parts that one model in a loop has under way; more are refused.  [default: 1536]",
            show_default=False,
        ),
    ] = None,
    drain: options.Drain = 30.0,
    poll: Annotated[
        float,
        typer.Option(
            "--poll",
            envvar="CAPAMESH_POLL",
            metavar="TIME",
            parser=seconds(),
            rich_help_panel="Serving",
            help="How often to look for new, changed and removed models; 0: only at the start.",
        ),
    ] = 2.0,
    control: Annotated[
        bool,
        typer.Option(
            "--control/--no-control",
            envvar="CAPAMESH_CONTROL",
            rich_help_panel="Serving",
            help="Routers may have models loaded and unloaded here; those that gave way to others are loaded for any request.",
        ),
    ] = False,
    memory_limit: options.MemoryLimit = None,
    watchdog: Annotated[
        float,
        typer.Option(
            "--watchdog",
            envvar="CAPAMESH_WATCHDOG",
            metavar="TIME",
            parser=seconds(1.0),
            rich_help_panel="Limits",
            help="A run that takes longer ends its worker process, which starts anew.",
        ),
    ] = 60.0,
    load_limit: Annotated[
        float,
        typer.Option(
            "--load-limit",
            envvar="CAPAMESH_LOAD_LIMIT",
            metavar="TIME",
            parser=seconds(1.0, 3000.0),
            rich_help_panel="Limits",
            help="A model that takes longer to load, warm up and measure ends its worker process, which starts anew;"
            " TensorRT may need minutes the first time.",
        ),
    ] = 600.0,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            envvar="CAPAMESH_METRICS",
            metavar="HOST:PORT",
            rich_help_panel="Listening",
            help="Serve metrics for Prometheus at http://HOST:PORT/metrics.  [default: nowhere]",
            show_default=False,
        ),
    ] = "",
    dial_only: Annotated[
        bool,
        typer.Option(
            "--dial-only",
            envvar="CAPAMESH_DIAL_ONLY",
            rich_help_panel="Network",
            help="Nobody can reach this machine: dial the routers instead.",
        ),
    ] = False,
    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox/--no-sandbox",
            envvar="CAPAMESH_SANDBOX",
            rich_help_panel="Advanced",
            help="Keep workers, once they have started, from files, programs and connections that they do not need.",
        ),
    ] = True,
    log: options.LogForm = "auto",
    log_level: options.LogLevel = "info",
    owner_fd: options.OwnerFd = None,
) -> None:
    """Run a node until it is stopped; SIGTERM and Ctrl-C let it finish its work first."""
    with quick_imports():  # help and other commands start faster without these
        from capamesh.cli.services import run_node  # noqa: PLC0415
        from capamesh.node.agent.settings import NodeSettings  # noqa: PLC0415
        from capamesh.node.contract.settings import (  # noqa: PLC0415
            MAX_IN_FLIGHT,
            MAX_STREAMS,
            WorkerSettings,
        )

    options.refuse_file_as_folder(models, "--models")
    metrics_host, metrics_port = host_and_port(metrics, "--metrics") if metrics else ("", 0)
    settings = NodeSettings(
        data_folder=data,
        models_folder=models,
        token=options.read_token(token, token_file),
        token_file=options.watched(token_file),
        bootstrap=tuple(bootstrap or ()),
        host=host,
        port=port,
        mesh_port=mesh_port,
        advertised_host=advertise,
        use_mdns=mdns,
        name=name,
        region=region,
        price_per_million=price or 0.0,
        drain_s=drain,
        worker=WorkerSettings(
            threads=threads or 0,
            max_in_flight=MAX_IN_FLIGHT if max_in_flight is None else max_in_flight,
            max_streams=MAX_STREAMS if max_streams is None else max_streams,
            poll_s=poll,
            is_controllable=control,
            memory_limit_bytes=size_bytes(memory_limit or "0", "--memory-limit"),
            watchdog_s=watchdog,
            load_limit_s=load_limit,
            is_dialing=dial_only,
            is_sandboxed=sandbox,
        ),
        metrics_host=metrics_host,
        metrics_port=metrics_port,
    )
    options.set_logs(log, log_level)
    run_node(settings, owner_fd)


@group.command(
    epilog=examples(
        "capamesh node status --data my-network/node",
        "capamesh node status --data my-network/node > /dev/null   exit status 0 only when it is running and ready",
    )
)
def status(
    data: options.NodeData, is_wide: options.Wide = False, as_json: options.Json = False
) -> None:
    """Show how the node in DIR and each of its models is.

    Exit status 0: requests can be served now. 1: it does not run, or has said nothing for 20 s. 3: its membership has
    expired or was revoked. 4: it starts, drains, or waits for a router or a model.
    """
    from capamesh.cli.status import show_status  # noqa: PLC0415 - help and other commands start faster

    show_status(data, "node", is_wide=is_wide, as_json=as_json)


Node = Annotated[
    str, typer.Argument(metavar="NODE", help="A node's name, its peer id, or the end of it.")
]


@group.command(
    epilog=examples(
        "capamesh nodes   shows which nodes are lost",
        "capamesh node forget gpu-1 --data my-network/router",
    )
)
def forget(
    node: Node,
    data: options.RouterData,
    router: options.Router = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Let one router forget a lost node, which will not return. Each router keeps its own list of lost nodes for a day.

    The key that this takes is in the data folder of the router: only who can read that can do it.
    """
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import print_json, say  # noqa: PLC0415 - the same
    from capamesh.router.access.operator_key import authorization_from  # noqa: PLC0415 - the same

    authorization = authorization_from(data)
    with OperatorClient(router, **access(header, ca, cert=cert, cert_key=cert_key)) as client:
        found = client.forget(node.removeprefix("…"), authorization=authorization)
    if as_json:
        print_json(found)
        return
    say(f"{found.get('name') or found.get('peer_id')} is forgotten; it still may return")


@group.command(
    epilog=examples(
        "capamesh nodes   shows names and peer ids",
        "capamesh node drain gpu-1 --dir network --router http://10.0.0.5:8000",
        "capamesh node drain 9xKq --for 30m",
        "capamesh node enable gpu-1   brings it back before its time",
    )
)
def drain(
    node: Node,
    folder: options.OwnerFolder,
    router: options.Router = options.DEFAULT_ROUTER,
    lasts: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="DURATION",
            help="How long at most: 30m, 8h, 2d, up to 30d. Then it gets requests again by itself.",
        ),
    ] = "8h",
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Let no router send new requests to a node for a while; requests under way are still answered.

    It takes the owner's key, in DIR, and is told to one router, which tells all members. Those that join later hear of it.
    """
    from capamesh.cli import drain as draining  # noqa: PLC0415 - help and other commands start faster

    draining.drain(
        node,
        folder,
        router,
        duration(lasts, "--for"),
        access=access(header, ca, cert=cert, cert_key=cert_key, router=router),
        as_json=as_json,
    )


@group.command(
    epilog=examples(
        "capamesh node enable gpu-1 --dir network --router http://10.0.0.5:8000",
        "capamesh nodes   the next step: whether it is usable",
    )
)
def enable(
    node: Node,
    folder: options.OwnerFolder,
    router: options.Router = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    as_json: options.Json = False,
) -> None:
    """Let routers send requests to a node again that was drained. It takes the owner's key, in DIR."""
    from capamesh.cli import drain as draining  # noqa: PLC0415 - help and other commands start faster

    draining.enable(
        node,
        folder,
        router,
        access=access(header, ca, cert=cert, cert_key=cert_key, router=router),
        as_json=as_json,
    )
