"""`capamesh top`: a router's nodes and models as they are now, again and again. IO: asks a router, draws, reads keys."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from capamesh.cli import options
from capamesh.cli.access import Ca, Cert, CertKey, Headers, access
from capamesh.cli.help_texts import examples
from capamesh.cli.parsing import seconds
from capamesh.protocol.errors import CapameshError

EPILOG = examples(
    "capamesh top",
    "capamesh top --router http://10.0.0.5:8000 --every 5s",
    "capamesh top --once   one table, for a file or a pipe",
)


def top(
    router: options.Routers = options.DEFAULT_ROUTER,
    header: Headers = None,
    ca: Ca = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    every: Annotated[
        float,
        typer.Option(
            "--every",
            metavar="TIME",
            parser=seconds(0.5, 3600.0),
            help="How often the router is asked.",
        ),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once, whole, and end.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show the models and nodes of a router as they are now, what is in trouble first, until q or Ctrl-C.

    Requests, errors and latencies are of the router's newest few seconds. --json prints one document, and ends.
    """
    from capamesh.cli.operator_client import OperatorClient  # noqa: PLC0415 - help starts faster
    from capamesh.cli.printing import console, print_json, print_lines  # noqa: PLC0415 - the same
    from capamesh.cli.top_view import top_lines  # noqa: PLC0415 - the same

    with OperatorClient(
        options.several(router), **access(header, ca, cert=cert, cert_key=cert_key, router=router)
    ) as client:
        if as_json:
            print_json(client.snapshot())
        elif once or not sys.stdout.isatty():
            print_lines(top_lines(client.snapshot(), console().width, None))
        else:
            with suppress(KeyboardInterrupt), _keys() as key_within:
                _follow(client.snapshot, key_within, every)


def _follow(
    snapshot: Callable[[], dict[str, Any]], key_within: Callable[[float], str], every_s: float
) -> None:
    """Draw what the router says until q is pressed; one that cannot be reached is asked again."""
    from rich.live import Live  # noqa: PLC0415 - help starts faster
    from rich.text import Text  # noqa: PLC0415 - the same

    from capamesh.cli.printing import console  # noqa: PLC0415 - the same
    from capamesh.cli.top_view import top_lines  # noqa: PLC0415 - the same

    screen, known = console(), dict[str, Any]()
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        while True:
            try:
                known, note = snapshot(), ""
            except CapameshError as error:
                note = f"not current, asked again in {every_s:g} s: {error.message}"
            lines = top_lines(known, screen.width, screen.height, note)
            live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)
            if key_within(every_s) in {"q", "Q"}:
                return


@contextmanager
def _keys() -> Generator[Callable[[float], str]]:
    """Have keys read as they are pressed; yields a function that waits so long for one, and returns "" for none."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    import select  # noqa: PLC0415 - of a terminal alone
    import termios  # noqa: PLC0415 - the same
    import tty  # noqa: PLC0415 - the same

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)

        def within(wait_s: float) -> str:
            return sys.stdin.read(1) if select.select([sys.stdin], [], [], wait_s)[0] else ""

        yield within
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _no_key(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""
