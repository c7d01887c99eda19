"""Shows the levels of a load: a table with bars, and a drawing as SVG. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from capamesh.cli.printing import time_text

if TYPE_CHECKING:
    from capamesh.cli.llm_load.measures import Level, Spread

COLUMNS: Final = (
    "CALLERS", "TOKENS/S", "", "REQUESTS/S", "TTFT p50", "p99", "TPOT p50", "p99", "GAP p99", "WHOLE p50", "ERRORS",
)  # fmt: skip
"""The columns of the table; the one without a name has bars of the tokens a second."""
_BAR: Final = 16
"""The characters of the longest bar."""
_EIGHTHS: Final = "▏▎▍▌▋▊▉█"
_TOP: Final = 70.0
_GAP: Final = 64.0
_SCALE_MS: Final = 1e3


def table_rows(levels: Sequence[Level]) -> list[tuple[object, ...]]:
    """Return a row of `COLUMNS` for each level."""
    most = max((level.tokens_per_s for level in levels), default=0.0)
    return [
        (
            level.callers,
            f"{level.tokens_per_s:.1f}",
            bar(level.tokens_per_s, most),
            f"{level.requests_per_s:.2f}",
            _of(level.first_token_s, "p50"),
            _of(level.first_token_s, "p99"),
            _of(level.token_s, "p50"),
            _of(level.token_s, "p99"),
            _of(level.gap_s, "p99"),
            _of(level.total_s, "p50"),
            level.error_count,
        )
        for level in levels
    ]


def bar(value: float, most: float) -> str:
    """Return a bar for a value from 0 to `most`, of blocks that are cut to an eighth of a character."""
    eighths = round(_BAR * 8 * value / most) if most > 0 else 0
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest - 1] if rest else "")


def drawing(title: str, levels: Sequence[Level]) -> str:
    """Return an SVG document: tokens a second, the time to the first token and the time per token, over callers."""
    from capamesh.simulation.charts import Line, document, lines_panel  # noqa: PLC0415 - where it is drawn

    def line(name: str, value: Callable[[Level], float | None]) -> Line:
        return Line(
            name,
            tuple(
                (float(level.callers), found)
                for level in levels
                if (found := value(level)) is not None
            ),
        )

    def ms(spread: Spread | None, which: str) -> float | None:
        return None if spread is None else _SCALE_MS * float(getattr(spread, which))

    pairs = {"p50": "#1f77b4", "p99": "#d62728", "all": "#2ca02c"}
    panels: list[str] = []
    bottom = _TOP - _GAP
    for label, lines in (
        ("tokens a second, over callers", [line("all", lambda level: level.tokens_per_s)]),
        (
            "time to the first token, ms, over callers",
            [
                line("p50", lambda level: ms(level.first_token_s, "p50")),
                line("p99", lambda level: ms(level.first_token_s, "p99")),
            ],
        ),
        (
            "time per output token, ms, over callers",
            [
                line("p50", lambda level: ms(level.token_s, "p50")),
                line("p99", lambda level: ms(level.token_s, "p99")),
            ],
        ),
    ):
        panel, bottom = lines_panel(label, lines, pairs, bottom + _GAP)
        panels.append(panel)
    return document(title, panels, bottom + _GAP)


def _of(spread: Spread | None, which: str) -> str:
    return time_text(None if spread is None else getattr(spread, which))
