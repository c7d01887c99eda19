"""Tables that fit a terminal: a line for each row, the less important columns left out first, long names shortened. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size

from capamesh.cli.short_text import cut_end, cut_middle
from capamesh.protocol.plain_text import plain

GAP: Final = 2
"""The cells between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a compact table."""

    title: str
    least: int | None = None
    """The cells to which it may be shortened; None: it is shown whole."""
    is_optional: bool = False
    """True if it is left out where there is no room for it, the last ones first."""
    is_name: bool = False
    """True if its cells are shortened in the middle, and not at their ends."""


def table_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], width: int
) -> list[str]:
    """Return the header and a line for each row, none of more than `width` cells of a terminal."""
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    natural = [
        max(cell_len(text) for text in (column.title, *(row[at] for row in cells)))
        for at, column in enumerate(columns)
    ]
    shown = _shown(columns, natural, width)
    widths = _shortened(columns, {at: natural[at] for at in shown}, width)
    header = [column.title for column in columns]
    return [_line(columns, row, widths, width) for row in (header, *cells)]


def _shown(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """Return the places of the columns for which there is room before anything is shortened."""
    shown = list(range(len(columns)))
    for at in reversed(range(len(columns))):
        if _total([natural[one] for one in shown]) <= width:
            break
        if columns[at].is_optional:
            shown.remove(at)
    return shown


def _shortened(columns: Sequence[Column], widths: dict[int, int], width: int) -> dict[int, int]:
    """Return the widths of the columns that are shown, the widest of those that may be shortened first."""
    widths = dict(widths)
    while _total(widths.values()) > width:
        spare = {at: size for at, size in widths.items() if size > _least(columns[at], size)}
        if not spare:
            break
        widths[max(spare, key=lambda at: spare[at])] -= 1
    return widths


def _least(column: Column, size: int) -> int:
    return size if column.least is None else max(column.least, len(column.title))


def _total(widths: Collection[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _line(columns: Sequence[Column], row: Sequence[str], widths: dict[int, int], width: int) -> str:
    parts = [
        set_cell_size((cut_middle if columns[at].is_name else cut_end)(row[at], size), size)
        for at, size in widths.items()
    ]
    line = (" " * GAP).join(parts).rstrip()
    return line if cell_len(line) <= width else set_cell_size(line, width).rstrip()
