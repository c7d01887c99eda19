"""Tables of figures, each column a way to show a row. Prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Columns = dict[str, Callable[[dict[str, Any]], str]]


def table(console: Console, title: str, rows: Sequence[dict[str, Any]], columns: Columns) -> None:
    """Print rows of figures; a column says how it shows a row."""
    made = Table(title=title)
    for column in columns:
        made.add_column(column, justify="right")
    for row in rows:
        made.add_row(*(show(row) for show in columns.values()))
    console.print(made)


def count_of(key: str) -> Callable[[dict[str, Any]], str]:
    """Show a number with commas."""
    return lambda row: f"{row[key]:,.0f}"


def fixed(key: str, digits: int = 1, unit: float = 1.0) -> Callable[[dict[str, Any]], str]:
    """Show a number in a unit."""
    return lambda row: f"{row[key] / unit:,.{digits}f}"


def share(key: str) -> Callable[[dict[str, Any]], str]:
    """Show a percentage."""
    return lambda row: f"{row[key]:.1%}"


def scattered(key: str, inner: str = "", digits: int = 0) -> Callable[[dict[str, Any]], str]:
    """Show the middle of some samples, and their scatter in parentheses."""

    def show(row: dict[str, Any]) -> str:
        one = row[inner][key] if inner else row[key]
        least, most = (f"{one[name]:,.{digits}f}" for name in ("least", "most"))
        return f"{one['mid']:,.{digits}f} ({least}-{most})"

    return show


def kib_a_node(key: str) -> Callable[[dict[str, Any]], str]:
    """Show bytes by the node."""
    return lambda row: f"{row[key] / row['nodes'] / 1024:.1f}"


def timing(key: str) -> Callable[[dict[str, Any]], str]:
    """Show mean, 99th percentile and maximum."""
    return lambda row: " / ".join(f"{row[key][one]:.1f}" for one in ("mean", "p99", "most"))


def a_day(key: str, digits: int) -> Callable[[dict[str, Any]], str]:
    """Show a count by the day of a node."""
    return lambda row: f"{row[key] / row['node_days']:.{digits}f}"
