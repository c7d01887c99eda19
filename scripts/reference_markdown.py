"""What the pages that are made from the code share: tables, code and sentences of Markdown. Pure."""

from __future__ import annotations

NOTE = "<!-- Made by scripts/generate_reference.py: change the code, then run `make reference`. -->"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table of Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """Return `text` as it stands in a table."""
    return text.replace("|", "\\|")


def code(text: str) -> str:
    """Return `text` as code; nothing for an empty text."""
    return f"`{text}`" if text else ""


def sentence(docstring: str | None) -> str:
    """Return a docstring as one paragraph of Markdown."""
    return " ".join((docstring or "").split())
