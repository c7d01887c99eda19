"""Tables that benchmarks write into pages."""

from __future__ import annotations

import pytest
from benchmark_modules import load

tables = load("page_tables")
MARKS = (tables.begin("make it"), tables.END)


def test_table_is_put_between_the_marks_and_again() -> None:
    empty = f"before\n\n{MARKS[0]}\n\n{MARKS[1]}\n\nafter\n"
    once = tables.replaced(empty, "make it", "| old |")
    assert once == f"before\n\n{MARKS[0]}\n\n| old |\n\n{MARKS[1]}\n\nafter\n"
    assert tables.replaced(once, "make it", "| new |") == once.replace("old", "new")


@pytest.mark.parametrize("text", ["", MARKS[0], MARKS[1], f"{MARKS[1]} {MARKS[0]}"])
def test_page_without_marks_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no place for the table that make it writes"):
        tables.replaced(text, "make it", "| new |")


@pytest.mark.parametrize(
    ("page", "made_by"),
    [
        ("peers.md", "python benchmarks/peers.py"),
        ("profile.md", "make profile ARGS=--keep"),
        ("jobs.md", "python benchmarks/jobs.py --keep"),
    ],
)
def test_pages_have_the_marks_of_who_writes_them(page: str, made_by: str) -> None:
    text = (tables.PAGES / page).read_text()
    assert tables.begin(made_by) in text.partition(tables.END)[0]
