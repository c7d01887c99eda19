"""The options of a router that are about kept answers. IO: reads the file of the secret."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from capamesh.cli.parsing import mebibytes
from capamesh.protocol.errors import ConfigError

CACHE_VARIABLE: Final = "CAPAMESH_CACHE"
PANEL: Final = "Kept answers"
_MAKE_ONE: Final = "make one with: openssl rand -hex 32 > cache.secret"

CacheMib: TypeAlias = Annotated[
    int,
    typer.Option(
        "--cache-mib",
        envvar="CAPAMESH_CACHE_MIB",
        metavar="MIB",
        parser=mebibytes(0),
        rich_help_panel=PANEL,
        help="The memory for kept answers of models whose rules have a cache; 0: none are kept.",
    ),
]
Cache: TypeAlias = Annotated[
    str,
    typer.Option(
        "--cache",
        envvar=CACHE_VARIABLE,
        metavar="URL",
        rich_help_panel=PANEL,
        help="A Valkey or Redis in which routers share kept answers: valkey://HOST:PORT/DB. With a password, rather set the variable.",
    ),
]
CacheSecret: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--cache-secret",
        envvar="CAPAMESH_CACHE_SECRET",
        metavar="FILE",
        rich_help_panel=PANEL,
        help="The secret by which routers that share know one another's answers: the same file for all, 32 bytes at least.",
    ),
]


def read_cache(url: str, secret_file: Path | None) -> tuple[str, bytes]:
    """Return the URL of the store that routers share, which is also taken out of the environment, and the secret; "" and b"": none.

    A file that other users may read is used all the same, with a warning on standard error. Raises `ConfigError`: it cannot be
    read, or is too short, or the URL names no store.
    """
    from capamesh.protocol.private_files import is_exposed, read_public  # noqa: PLC0415 - help and other commands start faster
    from capamesh.router.cache.shared import LEAST_SECRET_BYTES  # noqa: PLC0415 - likewise
    from capamesh.router.cache.store_address import address_of  # noqa: PLC0415 - likewise

    os.environ.pop(CACHE_VARIABLE, None)  # the processes that a router starts are sent it
    if not url:
        return "", b""
    address_of(url)
    if secret_file is None:
        raise ConfigError(
            "--cache needs --cache-secret FILE, by which routers know what another has written, and others have not;"
            f" {_MAKE_ONE}, and give all routers that share the same"
        )
    secret = read_public(secret_file, "the secret of the shared cache").strip()
    if len(secret) < LEAST_SECRET_BYTES:
        raise ConfigError(
            f"{secret_file} has a secret of {len(secret)} bytes; {LEAST_SECRET_BYTES} at least are expected: {_MAKE_ONE}"
        )
    with secret_file.open("rb") as file:
        if is_exposed(file):
            print(
                f"capamesh: warning: other users of this machine can read {secret_file}; keep them out: chmod 600"
                f" {shlex.quote(str(secret_file))}",
                file=sys.stderr,
            )
    return url, secret
