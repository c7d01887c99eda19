"""Figures of a benchmark on real processes beside the bars that the design sets. Values; prints when told to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(slots=True)
class Report:
    """Figures, and what was asked of them."""

    figures: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str, str, str, bool]] = field(default_factory=list)

    def bar(
        self, case: str, what: str, seen: float, most: float, *, is_least: bool = False
    ) -> None:
        """Note a figure and what it may be at most, or must be at least."""
        held = seen >= most if is_least else seen <= most
        asked = f"{'>=' if is_least else '<='} {most:.4g}"
        self.rows.append((case, what, f"{seen:.4g}", asked, held))
        self.figures.setdefault(case, {})[what] = {
            "seen": seen if math.isfinite(seen) else None,
            "bar": asked,
            "held": held,
        }

    def note(self, case: str, **figures: object) -> None:
        """Keep figures that nothing is asked of."""
        self.figures.setdefault(case, {}).update(figures)

    @property
    def is_held(self) -> bool:
        """Return whether every bar was held."""
        return all(row[-1] for row in self.rows)

    def show(self, title: str, console: Console) -> None:
        """Print what was asked and seen."""
        table = Table(title=title)
        for column in ("case", "figure", "seen", "bar", ""):
            table.add_column(column)
        for case, what, seen, asked, held in self.rows:
            verdict = "held" if held else "[red]MISSED[/red]"
            table.add_row(case, what, seen, asked, verdict)
        console.print(table)
