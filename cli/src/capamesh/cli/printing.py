"""Prints results: as tables on a terminal, as JSON for programs. IO: prints, writes a file where one is asked for."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capamesh.cli.compact_table import GAP, Column, table_lines
from capamesh.cli.short_text import cut_end
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.plain_text import plain, plain_lines

_PIPED_COLUMNS = 200
"""Width where no terminal tells one (guess: a peer id and its neighbours on one line)."""
_WIDE_COLUMNS = 100_000
"""The width for tables that are not to be folded (guess: more than any row has)."""
_MOST_NOTES = 10
"""The most notes below a table (guess: with it they are seen at once on a screen of 24 lines)."""
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


def print_lines(lines: Iterable[str]) -> None:
    """Print lines that are as wide as they are to be; where the terminal is narrower, it goes on in its next line."""
    for line in lines:
        print(plain(line))


def print_compact(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], notes: Sequence[str] = ()
) -> None:
    """Print a table that fits the terminal, a line for each row, and below it a line for each note, at most ten."""
    width = console().width
    print_lines(table_lines(columns, rows, width))
    if notes:
        print()
        print_lines(cut_end(plain(note), width) for note in notes[:_MOST_NOTES])
    if len(notes) > _MOST_NOTES:
        print(f"and {len(notes) - _MOST_NOTES} more: give --wide")


def print_wide(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as wide as it is, nothing shortened and nothing folded."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    captured = Console(width=_WIDE_COLUMNS, highlight=False, color_system=None)
    with captured.capture() as capture:
        captured.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def wrapped(text: str) -> str:
    """Return a sentence in lines that fit the terminal, broken between words."""
    lines = textwrap.wrap(
        plain(text), console().width, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def print_values(fields: Mapping[str, object]) -> None:
    """Print names and values as `print_fields` does, broken between words: addresses can be copied whole."""
    names_width = max(map(len, fields), default=0)
    room = max(20, console().width - names_width - GAP)
    for name, value in fields.items():
        lines = [
            part
            for line in plain_lines(_text(value)).split("\n")
            for part in textwrap.wrap(line, room, break_long_words=False, break_on_hyphens=False)
        ]
        for number, line in enumerate(lines or ["-"]):
            print(f"{plain(name) if number == 0 else '':{names_width + GAP}}{line}")


def _cell(value: object) -> Text:
    """Return a cell without what could drive the terminal; a `Text` is this program's own."""
    return value if isinstance(value, Text) else Text(plain_lines(str(value)))


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
