"""The options with which a command gets through a proxy in front of a router. Reads the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NotRequired, TypeAlias, TypedDict
from urllib.parse import urlsplit

import typer

HEADERS_VARIABLE: Final = "CAPAMESH_HEADERS"
"""The environment variable with headers, one a line; an option of the same name goes before it."""

DATA_VARIABLE: Final = "CAPAMESH_DATA"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
KEY_VARIABLE: Final = "CAPAMESH_KEY"
"""The environment variable with the key that a router asks for."""

Headers: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="'NAME: VALUE'",
        help="A header for the proxy in front of the router, such as 'Authorization: Bearer KEY'; may be repeated. Other users "
        f"of this machine can read command lines: prefer the variable {HEADERS_VARIABLE}, which has one a line.",
    ),
]
Key: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar=KEY_VARIABLE,
        metavar="KEY",
        show_envvar=True,
        help="The key that the router asks for. Other users of this machine can read command lines: prefer the variable.",
    ),
]
Ca: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="CAPAMESH_CA",
        metavar="FILE.pem",
        help="The authority that signed the certificate of an https:// router, where the system does not trust it.",
    ),
]


Cert: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        envvar="CAPAMESH_CERT",
        metavar="FILE.pem",
        help="The certificate to show to an https:// router that asks for one; its key may be in the same file.",
    ),
]
CertKey: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cert-key",
        envvar="CAPAMESH_CERT_KEY",
        metavar="FILE.pem",
        help="The key of --cert, where it is in a file of its own.",
    ),
]


class AccessOptions(TypedDict):
    """The arguments of a client that the options stand for."""

    headers: dict[str, str]
    ca: Path | None
    key: NotRequired[str]
    cert: NotRequired[Path | tuple[Path, Path]]


def access(
    headers: Sequence[str] | None,
    ca: Path | None,
    key: str | None = None,
    *,
    cert: Path | None = None,
    cert_key: Path | None = None,
    router: str = "",
) -> AccessOptions:
    """Return what the options and the variables say, or else the operator's key where `router` is this user's own.

    A usage error, without the text, which may be a secret: no header.
    """
    if cert is None and cert_key is not None:
        raise typer.BadParameter("it is given alone: give --cert, too", param_hint="--cert-key")
    given: dict[str, str] = {}
    for where, lines in (
        (HEADERS_VARIABLE, os.environ.get(HEADERS_VARIABLE, "").splitlines()),
        ("--header", headers or ()),
    ):
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name.strip():
                if not line.strip() and where == HEADERS_VARIABLE:
                    continue
                raise typer.BadParameter(
                    "a header is 'NAME: VALUE', for example 'Authorization: Bearer KEY'",
                    param_hint=where,
                )
            replaced = [known for known in given if known.lower() == name.strip().lower()]
            for known in replaced:
                del given[known]
            given[name.strip()] = value.strip()
    found: AccessOptions = {"headers": given, "ca": ca}
    if cert is not None:
        found["cert"] = cert if cert_key is None else (cert, cert_key)
    key = (key or os.environ.get(KEY_VARIABLE, "")).strip()
    if not key and not any(name.lower() == "authorization" for name in given):
        key = own_key(router)
    if key:
        found["key"] = key
    return found


def own_key(router: str) -> str:
    """Return the operator's key of the router at this URL if it runs in a data folder of this user's; empty where it does not.

    The folders are that of `capamesh up`, and $CAPAMESH_DATA. The key is sent to nobody else: a process holds the folder and
    says in it at which address it listens.
    """
    from capamesh.cli.home import OWN_NETWORK, default_home  # noqa: PLC0415 - help starts faster
    from capamesh.protocol.data_dir import read_status  # noqa: PLC0415 - the same
    from capamesh.protocol.errors import ConfigError, KeyExposed  # noqa: PLC0415 - the same

    named = os.environ.get(DATA_VARIABLE)
    for folder in (*([Path(named)] if named else []), default_home() / OWN_NETWORK / "router"):
        try:
            status = read_status(folder)
            addresses = [str(status.get(name)) for name in ("http_address", "metrics_address")]
            if status.get("is_running") and any(_is_at(router, each) for each in addresses):
                from capamesh.router.access.operator_key import SCHEME, authorization_from  # noqa: PLC0415 - the same

                return authorization_from(folder).removeprefix(f"{SCHEME} ")
        except (ConfigError, KeyExposed):
            continue
    return ""


def _is_at(router: str, address: str) -> bool:
    """Return whether the URL of a router leads to the address at which one on this machine listens."""
    try:
        asked, told = urlsplit(router), urlsplit(address)
        is_there = (asked.scheme, asked.port) == (told.scheme, told.port)
    except ValueError:  # a port that is none
        return False
    return is_there and (
        asked.hostname == told.hostname
        or (asked.hostname in _LOOPBACK and told.hostname in {*_LOOPBACK, "0.0.0.0", "::"})  # noqa: S104 - it is asked, not listened at
    )
