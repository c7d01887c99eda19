"""The options by which `capamesh router run` lets clients in. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

PANEL = "Listening"

MetricsListen: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--metrics-listen",
        envvar="CAPAMESH_METRICS_LISTEN",
        metavar="HOST:PORT",
        rich_help_panel=PANEL,
        help="Where operators and Prometheus come in: metrics, the page, the fleet and commands are served here, and no longer"
        " at --http.",
    ),
]
TlsCert: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        envvar="CAPAMESH_TLS_CERT",
        metavar="FILE.pem",
        rich_help_panel=PANEL,
        help="Clients come in by TLS, with this certificate and those that lead to its authority. Read again when it changes.",
    ),
]
TlsKey: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        envvar="CAPAMESH_TLS_KEY",
        metavar="FILE.pem",
        rich_help_panel=PANEL,
        help="The certificate's key, without a password.",
    ),
]
TlsClientCa: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-client-ca",
        envvar="CAPAMESH_TLS_CLIENT_CA",
        metavar="FILE.pem",
        rich_help_panel=PANEL,
        help="Only clients with a certificate that one of these authorities has signed are let in.",
    ),
]
Insecure: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--insecure",
        envvar="CAPAMESH_INSECURE",
        rich_help_panel=PANEL,
        help="Let clients of other machines in without TLS or keys: only those you trust can reach --http.",
    ),
]
