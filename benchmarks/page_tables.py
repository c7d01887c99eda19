"""Tables that benchmarks write into pages of docs/, between two marks. Reads and writes files."""

from __future__ import annotations

from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "benchmarks"
END = "<!-- end of the table -->"


def begin(made_by: str) -> str:
    """Return the mark before a table, which says what makes it."""
    return f"<!-- the table that `{made_by}` writes -->"


def replaced(text: str, made_by: str, table: str) -> str:
    """Return a page's text with `table` in the place of the one between its marks; ValueError: it has none."""
    before, mark, rest = text.partition(begin(made_by))
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise ValueError(f"the page has no place for the table that {made_by} writes")
    return f"{before}{mark}\n\n{table}\n\n{END}{after}"


def write(page: str, made_by: str, table: str) -> Path:
    """Write a table into a page; return the page's file."""
    file = PAGES / page
    file.write_text(replaced(file.read_text(), made_by, table))
    return file
