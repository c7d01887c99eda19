"""`capamesh doctor`: say whether this machine is ready for Capamesh. Arguments and printing only."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from capamesh.cli import options
from capamesh.cli.help_texts import examples

EPILOG = examples(
    "capamesh doctor",
    "capamesh doctor --router http://10.0.0.5:8000 --token-file node.token   can this machine join?",
    "capamesh doctor --json > doctor.json   for a report of a problem",
)
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "dim"}


def doctor(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            envvar="CAPAMESH_DATA",
            metavar="DIR",
            help="Where a member's data will be; it need not exist yet.",
        ),
    ] = Path(),
    port: Annotated[
        list[int] | None,
        typer.Option(
            "--port", min=1, max=65535, help="A port to look at, besides 8000; may be repeated."
        ),
    ] = None,
    router: Annotated[
        str,
        typer.Option(
            "--router",
            envvar="CAPAMESH_ROUTER",
            metavar="URL",
            help="A router to reach and to compare clocks with.",
        ),
    ] = "",
    token: options.Token = None,
    token_file: options.TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """Look at what Capamesh needs of this machine, and say the one line to run for what is missing.

    Nothing is changed. With a join token, the addresses in it are dialled. Exit status 1 when a check fails.
    """
    from rich.text import Text  # noqa: PLC0415 - the same

    from capamesh.cli.checkup.diagnosis import Asked, diagnose  # noqa: PLC0415 - help starts faster
    from capamesh.cli.checkup.findings import has_failed  # noqa: PLC0415 - the same
    from capamesh.cli.checkup.machine import DEFAULT_PORT  # noqa: PLC0415 - the same
    from capamesh.cli.checkup.network_probes import router_address  # noqa: PLC0415 - the same
    from capamesh.cli.printing import print_json, print_table  # noqa: PLC0415 - the same

    if router and router_address(router) is None:
        raise typer.BadParameter(
            f"{router!r} is no URL of a router, for example http://127.0.0.1:8000",
            param_hint="--router",
        )
    ports = tuple(dict.fromkeys((DEFAULT_PORT, *(port or ()))))
    found = diagnose(Asked(ports, data, router, options.read_token(token, token_file)))
    if as_json:
        print_json({"is_ready": not has_failed(found), "checks": [asdict(each) for each in found]})
    else:
        print_table(
            ("CHECK", "STATE", "SEEN", "RUN"),
            [
                (each.check, Text(each.state, _COLOURS[each.state]), each.seen, each.run)
                for each in found
            ],
        )
    if has_failed(found):
        raise typer.Exit(1)
