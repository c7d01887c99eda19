"""The options by which `capamesh router run` lets clients in. Arguments only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

PANEL = "Listening"


def _host(text: str) -> str:
    from capamesh.router.access.origin_check import checked_host  # noqa: PLC0415 - help starts faster

    return checked_host(text)


def _origin(text: str) -> str:
    from capamesh.router.access.origin_check import checked_origin  # noqa: PLC0415 - the same

    return checked_origin(text)


def page_options(hosts: list[str] | None, origins: list[str] | None) -> list[str]:
    """Return these as options of `capamesh router run`."""
    return [
        *(part for host in hosts or () for part in ("--allow-host", host)),
        *(part for origin in origins or () for part in ("--allow-origin", origin)),
    ]


AllowHost: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host",
        envvar="CAPAMESH_ALLOW_HOST",
        metavar="NAME",
        parser=_host,
        rich_help_panel=PANEL,
        help="A name by which clients and proxies ask this router, such as router.example or *.example; *: any. Addresses, localhost, the"
        " names of the certificate and, beyond loopback, this machine's need none. Repeatable.",
    ),
]
AllowOrigin: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin",
        envvar="CAPAMESH_ALLOW_ORIGIN",
        metavar="URL",
        parser=_origin,
        rich_help_panel=PANEL,
        help="The origin of web pages that may ask this router beside its own, such as https://app.example. Repeatable.",
    ),
]

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
