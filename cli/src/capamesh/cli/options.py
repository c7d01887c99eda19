"""Options that several commands share, and the join token's ways in. Reads a token's file or standard input."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias, cast

import typer
from typer.models import OptionInfo

from capamesh.cli.home import kept_member, kept_owner
from capamesh.cli.parsing import seconds
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import is_exposed, reason_of

DEFAULT_ROUTER = "http://127.0.0.1:8000"
"""The address at which `capamesh router run` and `capamesh dev up` listen by default."""
TOKEN_VARIABLE = "CAPAMESH_TOKEN"  # noqa: S105 - the variable's name, not its value
POLICY_NAMES = (
    "affinity", "cheapest", "least-request", "p2c", "peak-ewma", "prefix", "prequal", "random", "round-robin",
)  # fmt: skip
"""The policies that routers know. Written out: importing them takes longer than showing a help page should."""
DEFAULT_POLICY = "prequal"
_MAX_TOKEN_BYTES = 64 * 1024
"""The largest token file that is read (guess: tokens have about 1,500 characters; a larger file is another file)."""

Router: TypeAlias = Annotated[
    str,
    typer.Option("--router", envvar="CAPAMESH_ROUTER", metavar="URL", help="The router to ask."),
]
Routers: TypeAlias = Annotated[
    str,
    typer.Option(
        "--router",
        envvar="CAPAMESH_ROUTER",
        metavar="URL,...",
        help="The router to ask; of several, with commas between, the next one when one cannot be reached.",
    ),
]
Wide: TypeAlias = Annotated[
    bool, typer.Option("--wide", help="All columns and whole texts, however wide the terminal is.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Data: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="CAPAMESH_DATA",
        metavar="DIR",
        help="The member's own folder: its key, membership and status.",
    ),
]


def _kept(role: str) -> OptionInfo:
    """Return the option that names the data folder of a member that is there: where this user has one alone, it is that."""
    made = typer.Option(
        "--data",
        envvar="CAPAMESH_DATA",
        metavar="DIR",
        default_factory=lambda: kept_member(role),
        help=f"The {role}'s data folder.  [default: that of the only {role} of `capamesh up` and `join` here]",
        show_default=False,
    )
    return cast("OptionInfo", made)


RouterData: TypeAlias = Annotated[Path, _kept("router")]
NodeData: TypeAlias = Annotated[Path, _kept("node")]
KEYS_HELP: Final = (
    "The place of clients' keys, where it is not keys.db in --data: a file, which routers of one machine may share, or"
    " postgresql://USER@HOST/DATABASE, which all may. Other users can read command lines: put a URL with a password into the"
    " variable."
)
Keys: TypeAlias = Annotated[
    str,
    typer.Option(
        "--keys",
        envvar="CAPAMESH_KEYS",
        metavar="PLACE",
        help=KEYS_HELP,
        show_default=False,
    ),
]
NewOwnerFolder: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--dir", envvar="CAPAMESH_NETWORK", metavar="DIR", help="The network owner's folder."
    ),
]
OwnerFolder: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--dir",
        envvar="CAPAMESH_NETWORK",
        metavar="DIR",
        default_factory=kept_owner,
        help="The network owner's folder.  [default: network, or else that of `capamesh up`]",
        show_default=False,
    ),
]
Token: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar=TOKEN_VARIABLE,
        metavar="TOKEN",
        rich_help_panel="Network",
        help="A join token, needed once. Other users of this machine can read command lines: prefer the "
        "variable or --token-file.",
    ),
]
TokenFile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token-file",
        envvar="CAPAMESH_TOKEN_FILE",
        metavar="FILE",
        rich_help_panel="Network",
        help="Read the join token from FILE, or from standard input with '-'. A new token in FILE is taken as this runs.",
    ),
]
Policy: TypeAlias = Annotated[
    str,
    typer.Option(
        "--policy",
        envvar="CAPAMESH_POLICY",
        metavar="NAME",
        rich_help_panel="Serving",
        help="How nodes are chosen, for models of which --rules says nothing else: "
        f"{', '.join(POLICY_NAMES)}.",
    ),
]
LogForm: TypeAlias = Annotated[
    Literal["auto", "console", "json"],
    typer.Option(
        "--log",
        envvar="CAPAMESH_LOG",
        rich_help_panel="Logs",
        help="Log lines for people, or JSON; auto: for people on a terminal.",
    ),
]
LogLevel: TypeAlias = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option(
        "--log-level",
        envvar="CAPAMESH_LOG_LEVEL",
        rich_help_panel="Logs",
        help="Log nothing below it.",
    ),
]
OwnerFd: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--owner-fd",
        hidden=True,  # for a local cluster, which starts members with it
        help="Stop as if by SIGTERM when this inherited pipe ends, which it does when its owner dies.",
    ),
]
Bootstrap: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--bootstrap",
        envvar="CAPAMESH_BOOTSTRAP",
        metavar="MULTIADDR",
        rich_help_panel="Network",
        help="A router's mesh address, besides those in the token; may be repeated (blanks between them in the "
        "variable).",
    ),
]
Advertise: TypeAlias = Annotated[
    str,
    typer.Option(
        "--advertise",
        envvar="CAPAMESH_ADVERTISE",
        metavar="HOST",
        rich_help_panel="Network",
        help="The host that others dial; by default the one listened on, or this machine's outward address.",
    ),
]
Mdns: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--mdns",
        envvar="CAPAMESH_MDNS",
        rich_help_panel="Network",
        help="Find members on the local network.",
    ),
]
Name: TypeAlias = Annotated[
    str,
    typer.Option(
        "--name",
        envvar="CAPAMESH_NAME",
        metavar="NAME",
        rich_help_panel="Network",
        help="What people are shown, no identity: 1 to 63 of A-Z a-z 0-9 . _ -  [default: this machine's name]",
        show_default=False,
    ),
]
Region: TypeAlias = Annotated[
    str,
    typer.Option(
        "--region",
        envvar="CAPAMESH_REGION",
        metavar="NAME",
        rich_help_panel="Network",
        help="Where this is, in your words.",
    ),
]
Price: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--price",
        envvar="CAPAMESH_PRICE",
        metavar="PRICE",
        min=0.0,
        rich_help_panel="Network",
        help="For a million rows, in your unit.  [default: 0]",
        show_default=False,
    ),
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--threads",
        envvar="CAPAMESH_THREADS",
        metavar="N",
        min=0,
        rich_help_panel="Serving",
        help="CPU threads of one run; 0: all cores.  [default: 0]",
        show_default=False,
    ),
]
MemoryLimit: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        envvar="CAPAMESH_MEMORY_LIMIT",
        metavar="BYTES",
        rich_help_panel="Limits",
        help="What the models of one device may occupy, without their runs, for example 512MiB or 2GiB; 0: what the device has."
        "  [default: 0]",
        show_default=False,
    ),
]
Drain: TypeAlias = Annotated[
    float,
    typer.Option(
        "--drain",
        envvar="CAPAMESH_DRAIN",
        metavar="TIME",
        parser=seconds(),
        rich_help_panel="Serving",
        help="How long a stop waits for work under way.",
    ),
]


def set_logs(form: str, level: str) -> None:
    """Say how this process, and those that it starts, are to log: before they set up their logs."""
    os.environ["CAPAMESH_LOG"] = form
    os.environ["CAPAMESH_LOG_LEVEL"] = level


def read_token(token: str | None, token_file: str | None) -> str | None:
    """Return the join token given, None when there is none; it is also taken out of the environment.

    The processes that a service starts inherit its environment, and need no token. A token file that other
    users may read is used all the same, with a warning on standard error; so is a token on the command line, which is
    one that is not the variable's. `ConfigError`: it cannot be read.
    """
    of_variable = os.environ.pop(TOKEN_VARIABLE, None)
    if token is not None and token_file is not None:
        raise typer.BadParameter("give one of --token and --token-file", param_hint="--token")
    if token and token != of_variable:
        print(
            "capamesh: warning: other users of this machine can read the join token in the list of processes; keep it in a "
            f"file of your own and give --token-file FILE, or set {TOKEN_VARIABLE}",
            file=sys.stderr,
        )
    if token_file is None:
        return token or None  # an empty variable is none: composed files set what they do not have
    if token_file == "-":  # noqa: S105 - a file's name, no secret
        return _not_empty(sys.stdin.read(_MAX_TOKEN_BYTES), "standard input")
    try:
        with Path(token_file).open(encoding="ascii") as file:
            if is_exposed(file):
                print(
                    f"capamesh: warning: other users of this machine can read the join token in {token_file}; "
                    f"keep them out: chmod 600 {shlex.quote(token_file)}",
                    file=sys.stderr,
                )
            return _not_empty(file.read(_MAX_TOKEN_BYTES), token_file)
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{token_file} holds no join token, which is one line of ASCII text: give the file that "
            "`capamesh network token` was written into"
        ) from exc
    except OSError as exc:
        raise ConfigError(
            f"cannot read the join token from {token_file}: {reason_of(exc)}; write one with: "
            "capamesh network token"
        ) from exc


def token_argument(token: str) -> str:
    """Return the token of an argument; "-" reads it from standard input. `ConfigError`: there is none."""
    if token != "-":  # noqa: S105 - a file's name, no secret
        return token
    return _not_empty(sys.stdin.read(_MAX_TOKEN_BYTES), "standard input")


def several(routers: str) -> list[str]:
    """Return the routers' URLs of `--router`."""
    return [url.strip() for url in routers.split(",") if url.strip()] or [routers]


def watched(token_file: str | None) -> Path | None:
    """Return the token's file that is looked at for a new one, None where the token came another way."""
    return None if token_file in {None, "-"} else Path(str(token_file))


def _not_empty(token: str, where: str) -> str:
    if not token.strip():
        from capamesh.protocol.network.token import ASK_FOR_ANOTHER  # noqa: PLC0415 - help starts faster

        raise ConfigError(f"{where} is empty, where a join token was expected; {ASK_FOR_ANOTHER}")
    return token


def refuse_file_as_folder(models: Path, option: str) -> None:
    """Raise a usage error when `models`, which should be a folder, is something else; that it exists is not asked."""
    if models.exists() and not models.is_dir():
        raise typer.BadParameter(
            f"{str(models)!r} is no folder: give the folder that has the models in it",
            param_hint=option,
        )
