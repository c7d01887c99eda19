"""Prints results: as tables on a terminal, as JSON for programs. IO: prints, writes a file where one is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.plain_text import plain, plain_lines

_PIPED_COLUMNS = 200
"""Width where no terminal tells one (guess: a peer id and its neighbours on one line)."""
_WHOLE_IDS_COLUMNS = 160
"""The width from which a table has room for whole peer ids of 52 characters (counted: `capamesh explain` needs 159)."""
_SHORT_ID_CHARS = 8
"""The characters shown of a peer id's end where there is no room for more (guess: no two of 100,000 nodes share them)."""
PEER_COLUMNS = frozenset({"PEER", "NODE"})
"""The columns with peer ids, which are never broken into two lines."""


@cache
def console() -> Console:
    """Return the console of standard output."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS, highlight=False)


def print_json(value: object) -> None:
    """Print one JSON document, at once even into a pipe."""
    print(json.dumps(value, indent=1, allow_nan=False), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; long cells are folded, never cut, so that they can be copied."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in PEER_COLUMNS)
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    console().print(table)


def _cell(value: object) -> Text:
    """Return a cell without what could drive the terminal; a `Text` is this program's own."""
    return value if isinstance(value, Text) else Text(plain_lines(str(value)))


def peer_text(peer: object) -> str:
    """Return a peer id, on a narrow terminal just its end, which `capamesh circuit` takes as well."""
    text = str(peer)
    if console().width >= _WHOLE_IDS_COLUMNS or len(text) <= _SHORT_ID_CHARS:
        return text
    return f"…{text[-_SHORT_ID_CHARS:]}"


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, a line each; a list's items stand under each other."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(plain(name), Text(plain_lines(_text(value))))
    console().print(table)


def require_suffix(path: Path, suffix: str, option: str) -> None:
    """Raise a usage error unless the file is named as what is written into it."""
    if path.suffix.lower() != suffix:
        raise typer.BadParameter(
            f"{str(path)!r}: only {suffix} is written; name it {path.stem or 'chart'}{suffix}",
            param_hint=option,
        )


def write_file(path: Path, text: str) -> None:
    """Write what a person asked for into `path`; raise `ConfigError` when that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc


def hint(text: str) -> None:
    """Say something to the person beside the result, which may be piped on."""
    print(plain_lines(text), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print a result that is a sentence, without what could drive the terminal."""
    print(plain_lines(text))


def amount(size_bytes: int) -> str:
    """Return a size in memory as people read it."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def count_text(number: int, what: str) -> str:
    """Return `1 node`, `2 nodes`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def time_text(seconds: float | None) -> str:
    """Return a time as people read it, to three digits; "-" where it is unknown."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 0.001:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"


def day_text(moment: object) -> str:
    """Return the day and minute (UTC) of a time in ISO 8601, "-" where there is none."""
    return str(moment).replace("T", " ")[:16] if moment else "-"


def _text(value: object) -> str:
    match value:
        case list() | tuple():
            return "\n".join(map(str, cast("Sequence[object]", value))) or "-"
        case dict():
            items = cast("Mapping[object, object]", value).items()
            return "\n".join(f"{key}  {item}" for key, item in items) or "-"
        case "" | None:
            return "-"
        case _:
            return str(value)
