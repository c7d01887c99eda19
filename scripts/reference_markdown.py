"""The parts that the pages made from the code share: tables, code and sentences of Markdown. Pure."""

from __future__ import annotations

import html

NOTE = "<!-- Made by scripts/generate_reference.py: change the code, then run `make reference`. -->"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """Return `text` as it stands in a table."""
    return text.replace("|", "\\|")


def code(text: str) -> str:
    """Return `text` as code; nothing for an empty text.

    A bar would end the cell of a table: some readers of Markdown take it for that also in code, and show the backslash
    where it is escaped. So it is written as HTML.
    """
    if "|" in text:
        return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"
    return f"`{text}`" if text else ""


def sentence(docstring: str | None) -> str:
    """Return a docstring as one paragraph of Markdown."""
    return " ".join((docstring or "").split())
