"""The options with which a command gets through a proxy in front of a router. Reads the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NotRequired, TypeAlias, TypedDict

import typer

HEADERS_VARIABLE: Final = "CAPAMESH_HEADERS"
"""The environment variable with headers, one a line; an option of the same name goes before it."""

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
) -> AccessOptions:
    """Return what the options and the variables say. A usage error, without the text, which may be a secret: no header."""
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
    if key:
        found["key"] = key
    return found
