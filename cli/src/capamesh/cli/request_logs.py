"""The options of a router that say what is told of its requests, and to whom. Does no IO."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from capamesh.cli.parsing import seconds

Traces: TypeAlias = Annotated[
    str,
    typer.Option(
        "--traces",
        envvar="CAPAMESH_TRACES",
        metavar="URL",
        rich_help_panel="Logs",
        help="Send spans of failed, slow and sampled requests to this OpenTelemetry collector: http://HOST:4318/v1/traces.",
    ),
]
TraceSlow: TypeAlias = Annotated[
    float,
    typer.Option(
        "--trace-slow",
        envvar="CAPAMESH_TRACE_SLOW",
        metavar="TIME",
        parser=seconds(),
        rich_help_panel="Logs",
        help="Requests that take longer are slow.",
    ),
]
TraceRatio: TypeAlias = Annotated[
    float,
    typer.Option(
        "--trace-ratio",
        envvar="CAPAMESH_TRACE_RATIO",
        metavar="SHARE",
        min=0.0,
        max=1.0,
        rich_help_panel="Logs",
        help="The share of all other requests that is traced, too.",
    ),
]
AccessLog: TypeAlias = Annotated[
    str,
    typer.Option(
        "--access-log",
        envvar="CAPAMESH_ACCESS_LOG",
        metavar="FILE",
        rich_help_panel="Logs",
        help="Write a share of all requests to FILE, or to standard output (-), a line of JSON each.",
    ),
]
AccessLogSample: TypeAlias = Annotated[
    float,
    typer.Option(
        "--access-log-sample",
        envvar="CAPAMESH_ACCESS_LOG_SAMPLE",
        metavar="SHARE",
        min=0.000001,
        max=1.0,
        rich_help_panel="Logs",
        help="The share of requests that is written there.",
    ),
]
SlowLog: TypeAlias = Annotated[
    str,
    typer.Option(
        "--slow-log",
        envvar="CAPAMESH_SLOW_LOG",
        metavar="FILE",
        rich_help_panel="Logs",
        help="Write slow requests to FILE, or to standard output (-), with why their nodes were chosen.",
    ),
]
SlowLogTime: TypeAlias = Annotated[
    float,
    typer.Option(
        "--slow-log-time",
        envvar="CAPAMESH_SLOW_LOG_TIME",
        metavar="TIME",
        parser=seconds(),
        rich_help_panel="Logs",
        help="Requests that take longer are written there.",
    ),
]
SlowLogFactor: TypeAlias = Annotated[
    float,
    typer.Option(
        "--slow-log-factor",
        envvar="CAPAMESH_SLOW_LOG_FACTOR",
        metavar="TIMES",
        min=0.0,
        rich_help_panel="Logs",
        help="So are those that take longer than so many times what 99 % of their model's do; 0 for none.",
    ),
]
