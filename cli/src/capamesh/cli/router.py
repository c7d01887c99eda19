"""`capamesh router`: run a router, ask how one is. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from capamesh.cli import cache_options, front_options, job_options, options, request_logs
from capamesh.cli.help_texts import examples, new_group, teach
from capamesh.cli.parsing import host_and_port, mebibytes, seconds
from capamesh.protocol.quick_imports import quick_imports

group = new_group(
    "Serve clients: find the nodes, send each request to a good one.",
    examples(
        "capamesh router run --data my-network/router --token-file router.token",
        "capamesh router status --data my-network/router   in another terminal; shows its mesh address",
    ),
)
group.callback(invoke_without_command=True)(teach)

_MIB = 1024 * 1024


def worker_count(text: str | int) -> int:
    """Return what `4` or `auto` says: so many processes, or one for each core that this process may keep busy."""
    plain = str(text).strip()
    if plain == "1":
        return 1
    from capamesh.node.devices.host import usable_cores  # noqa: PLC0415 - help and other commands start faster
    from capamesh.router.settings import MOST_WORKERS  # noqa: PLC0415 - likewise

    if plain == "auto":
        return min(MOST_WORKERS, usable_cores())
    is_number = plain.isascii() and plain.isdigit() and len(plain) <= len(str(MOST_WORKERS))
    if not is_number or not 1 <= int(plain) <= MOST_WORKERS:
        raise typer.BadParameter(
            f"{plain[:80]!r} is no number of processes: give 1 to {MOST_WORKERS}, or auto"
        )
    return int(plain)


@group.command(
    epilog=examples(
        "capamesh network token --role router > router.token   by the network's owner",
        "capamesh router run --data my-network/router --token-file router.token",
        "capamesh router run --data my-network/router --policy least-request --rules rules.toml   how requests are routed",
        "capamesh router status --data my-network/router   its mesh address is what nodes' tokens name as --bootstrap",
    )
)
def run(
    data: options.Data,
    token: options.Token = None,
    token_file: options.TokenFile = None,
    bootstrap: options.Bootstrap = None,
    http: Annotated[
        str,
        typer.Option(
            "--http",
            envvar="CAPAMESH_HTTP",
            metavar="HOST:PORT",
            rich_help_panel="Listening",
            help="Where clients come in.",
        ),
    ] = "127.0.0.1:8000",
    mesh: Annotated[
        str,
        typer.Option(
            "--mesh",
            envvar="CAPAMESH_MESH",
            metavar="HOST:PORT",
            rich_help_panel="Network",
            help="Where members gossip.",
        ),
    ] = "127.0.0.1:4001",
    metrics_listen: front_options.MetricsListen = None,
    tls_cert: front_options.TlsCert = None,
    tls_key: front_options.TlsKey = None,
    tls_client_ca: front_options.TlsClientCa = None,
    insecure: front_options.Insecure = False,
    links: Annotated[
        str,
        typer.Option(
            "--links",
            envvar="CAPAMESH_LINKS",
            metavar="HOST:PORT",
            rich_help_panel="Listening",
            help="Where nodes come in that nobody can dial.",
        ),
    ] = "127.0.0.1:4100",
    advertise: options.Advertise = "",
    dial_inside: Annotated[
        str,
        typer.Option(
            "--dial-inside",
            envvar="CAPAMESH_DIAL_INSIDE",
            metavar="REACH",
            rich_help_panel="Network",
            help="global, private, link-local or loopback: how far inside the addresses may lie that nodes have this router dial: "
            "no further than where it is reached itself, unless you allow more.",
        ),
    ] = "",
    mdns: options.Mdns = False,
    name: options.Name = "",
    traces: request_logs.Traces = "",
    trace_slow: request_logs.TraceSlow = 1.0,
    trace_ratio: request_logs.TraceRatio = 0.0,
    access_log: request_logs.AccessLog = "",
    access_log_sample: request_logs.AccessLogSample = 0.01,
    slow_log: request_logs.SlowLog = "",
    slow_log_time: request_logs.SlowLogTime = 1.0,
    slow_log_factor: request_logs.SlowLogFactor = 4.0,
    region: options.Region = "",
    policy: options.Policy = options.DEFAULT_POLICY,
    rules: Annotated[
        Path | None,
        typer.Option(
            "--rules",
            envvar="CAPAMESH_RULES",
            metavar="FILE",
            rich_help_panel="Serving",
            help="TOML that says how each model's requests are routed: its policy, versions, regions, prices, tenants. "
            "Read again on SIGHUP.",
        ),
    ] = None,
    keys: Annotated[
        str,
        typer.Option(
            "--keys",
            envvar="CAPAMESH_KEYS",
            metavar="PLACE",
            rich_help_panel="Serving",
            help=options.KEYS_HELP,
            show_default=False,
        ),
    ] = "",
    jobs: job_options.Jobs = "",
    no_jobs: job_options.NoJobs = False,
    jobs_folder: job_options.JobsFolder = None,
    jobs_place: job_options.JobsPlace = None,
    upload_mib: job_options.UploadMib = 0,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            envvar="CAPAMESH_TIMEOUT",
            metavar="TIME",
            parser=seconds(0.001),
            rich_help_panel="Serving",
            help="For requests without a deadline of their own, and the most that one may name.",
        ),
    ] = 30.0,
    answer_timeout: Annotated[
        float,
        typer.Option(
            "--answer-timeout",
            envvar="CAPAMESH_ANSWER_TIMEOUT",
            metavar="TIME",
            parser=seconds(0),
            rich_help_panel="Serving",
            help="For answers of language models, which take longer than others; 0: ten minutes, or as long as `--timeout` if that is"
            " longer.",
        ),
    ] = 0.0,
    arrival: Annotated[
        float,
        typer.Option(
            "--arrival",
            envvar="CAPAMESH_ARRIVAL",
            metavar="TIME",
            parser=seconds(0.001),
            rich_help_panel="Serving",
            help="How long a request's body may take to arrive.",
        ),
    ] = 30.0,
    drain: options.Drain = 30.0,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            envvar="CAPAMESH_WORKERS",
            metavar="N",
            parser=worker_count,
            rich_help_panel="Serving",
            help="Processes that serve requests, up to 15; auto: one for each core it may use. From 2 on they take links at the"
            " port of --links and the N after it.",
        ),
    ] = 1,
    max_message_mib: Annotated[
        int,
        typer.Option(
            "--max-message-mib",
            envvar="CAPAMESH_MAX_MESSAGE_MIB",
            metavar="MIB",
            parser=mebibytes(1, 2048),
            rich_help_panel="Limits",
            help="The largest request or answer.",
        ),
    ] = 64,
    max_json_mib: Annotated[
        int,
        typer.Option(
            "--max-json-mib",
            envvar="CAPAMESH_MAX_JSON_MIB",
            metavar="MIB",
            parser=mebibytes(1, 2048),
            rich_help_panel="Limits",
            help="The largest JSON in a request; larger tensors go as binary data, in a quarter of the bytes.",
        ),
    ] = 4,
    max_json_answer_mib: Annotated[
        int,
        typer.Option(
            "--max-json-answer-mib",
            envvar="CAPAMESH_MAX_JSON_ANSWER_MIB",
            metavar="MIB",
            parser=mebibytes(1, 2048),
            rich_help_panel="Limits",
            help="The largest JSON in an answer, of which each MiB takes some 50 ms to write.",
        ),
    ] = 16,
    body_budget_mib: Annotated[
        int,
        typer.Option(
            "--body-budget-mib",
            envvar="CAPAMESH_BODY_BUDGET_MIB",
            metavar="MIB",
            parser=mebibytes(0),
            rich_help_panel="Limits",
            help="The bodies of all requests together; 0: an eighth of the memory, and twice --max-message-mib at least.",
        ),
    ] = 0,
    answer_budget_mib: Annotated[
        int,
        typer.Option(
            "--answer-budget-mib",
            envvar="CAPAMESH_ANSWER_BUDGET_MIB",
            metavar="MIB",
            parser=mebibytes(0),
            rich_help_panel="Limits",
            help="Answers that are coming from nodes; 0: an eighth of the memory, and twice --max-message-mib at least.",
        ),
    ] = 0,
    cache_mib: cache_options.CacheMib = 128,
    cache: cache_options.Cache = "",
    cache_secret: cache_options.CacheSecret = None,
    max_connections: Annotated[
        int,
        typer.Option(
            "--max-connections",
            envvar="CAPAMESH_MAX_CONNECTIONS",
            metavar="N",
            min=0,
            rich_help_panel="Listening",
            help="HTTP connections; 0: 4096, or what the limit of descriptors leaves.",
        ),
    ] = 0,
    max_connections_per_address: Annotated[
        int,
        typer.Option(
            "--max-connections-per-address",
            envvar="CAPAMESH_MAX_CONNECTIONS_PER_ADDRESS",
            metavar="N",
            min=0,
            rich_help_panel="Listening",
            help="Of these from one address, or from one IPv6 network of 64 bits; 0: half of all.",
        ),
    ] = 0,
    allow_host: front_options.AllowHost = None,
    allow_origin: front_options.AllowOrigin = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--trusted-proxy",
            envvar="CAPAMESH_TRUSTED_PROXY",
            metavar="ADDRESS",
            rich_help_panel="Listening",
            help="A proxy's address or network: it stands for many clients, and may have all connections. Repeatable.",
        ),
    ] = None,
    log: options.LogForm = "auto",
    log_level: options.LogLevel = "info",
    owner_fd: options.OwnerFd = None,
) -> None:
    """Run a router until it is stopped; SIGTERM and Ctrl-C let it finish its requests first.

    SIGHUP reads --rules anew and looks at --token-file and --tls-cert.
    """
    with quick_imports():  # help and other commands start faster without these
        from capamesh.cli.services import run_router  # noqa: PLC0415
        from capamesh.protocol.tensors import Limits  # noqa: PLC0415
        from capamesh.router.settings import RouterSettings  # noqa: PLC0415

    http_host, http_port = host_and_port(http, "--http")
    metrics_host, metrics_port = "", 0
    if metrics_listen:
        metrics_host, metrics_port = host_and_port(metrics_listen, "--metrics-listen")
    mesh_host, mesh_port = host_and_port(mesh, "--mesh")
    link_host, link_port = host_and_port(links, "--links")
    cache_url, secret = cache_options.read_cache(cache, cache_secret)
    settings = RouterSettings(
        data_folder=data,
        token=options.read_token(token, token_file),
        token_file=options.watched(token_file),
        bootstrap=tuple(bootstrap or ()),
        http_host=http_host,
        http_port=http_port,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        is_insecure=insecure,
        mesh_host=mesh_host,
        mesh_port=mesh_port,
        link_host=link_host,
        link_port=link_port,
        advertised_host=advertise,
        dial_inside=dial_inside,
        use_mdns=mdns,
        name=name,
        traces_url=_collector(traces),
        trace_slow_s=trace_slow,
        trace_ratio=trace_ratio,
        access_log=access_log,
        access_log_sample=access_log_sample,
        slow_log=slow_log,
        slow_log_s=slow_log_time,
        slow_log_factor=slow_log_factor,
        region=region,
        policy=policy,
        rules_file=rules,
        keys=keys,
        jobs=job_options.read_jobs(jobs, is_without=no_jobs),
        jobs_folder=jobs_folder,
        jobs_places=tuple(jobs_place or ()),
        upload_bytes=upload_mib * _MIB,
        timeout_s=timeout,
        answer_timeout_s=answer_timeout,
        arrival_s=arrival,
        drain_s=drain,
        workers=workers,
        limits=Limits(
            max_message_bytes=max_message_mib * _MIB,
            max_json_bytes=max_json_mib * _MIB,
            max_json_answer_bytes=max_json_answer_mib * _MIB,
        ),
        body_budget_bytes=body_budget_mib * _MIB,
        answer_budget_bytes=answer_budget_mib * _MIB,
        cache_bytes=cache_mib * _MIB,
        cache_url=cache_url,
        cache_secret=secret,
        cache_secret_file=cache_secret,
        max_connections=max_connections,
        max_connections_per_address=max_connections_per_address,
        allowed_hosts=tuple(allow_host or ()),
        allowed_origins=tuple(allow_origin or ()),
        trusted_proxies=tuple(trusted_proxy or ()),
    )
    options.set_logs(log, log_level)
    run_router(settings, owner_fd)


def _collector(url: str) -> str:
    """Return a collector's URL; a usage error for what is none."""
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise typer.BadParameter(
            f"{url!r} is no URL of a collector such as http://127.0.0.1:4318/v1/traces",
            param_hint="--traces",
        )
    return url


@group.command(
    epilog=examples(
        "capamesh router status --data my-network/router",
        "capamesh router status --data my-network/router --json   for programs; exit status 0 only when ready",
    )
)
def status(
    data: options.RouterData, is_wide: options.Wide = False, as_json: options.Json = False
) -> None:
    """Show how the router in DIR is.

    Exit status 0: requests can be served now. 1: it does not run, or has said nothing for 20 s. 3: its membership has
    expired or was revoked. 4: it starts, drains, or waits for a node.
    """
    from capamesh.cli.status import show_status  # noqa: PLC0415 - help and other commands start faster

    show_status(data, "router", is_wide=is_wide, as_json=as_json)
