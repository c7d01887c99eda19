"""The glossary speaks of the code that there is, and has a word only once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GLOSSARY = ROOT / "docs" / "explanation" / "glossary.md"
SOURCES = [ROOT / part / "src" for part in ("protocol", "node", "router", "client")]
COLUMNS = 4


def rows() -> list[list[str]]:
    """Return the cells of each row of the glossary's tables."""
    lines = [line for line in GLOSSARY.read_text().splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells for cells in found if cells[0] != "word" and set(cells[0]) != {"-"}]


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Return the names that modules define, and the paths of all modules and folders."""
    found: set[str] = set()
    for source in SOURCES:
        for path in source.rglob("*"):
            relative = path.relative_to(source.parent.parent).with_suffix("").as_posix()
            found.add(f"/{relative.replace('src/capamesh/', '')}")
            if path.suffix == ".py":
                for statement in ast.parse(path.read_text()).body:
                    if isinstance(statement, ast.ClassDef):
                        found.add(statement.name)
                    elif isinstance(statement, ast.Assign):
                        found |= {
                            each.id for each in statement.targets if isinstance(each, ast.Name)
                        }
    return found


@pytest.mark.parametrize("cells", rows(), ids=lambda cells: cells[0])
def test_word_names_what_is_in_the_code(cells: list[str], names: set[str]) -> None:
    assert len(cells) == COLUMNS
    assert all(cells)
    named = re.findall(r"`([^`]+)`", cells[3])
    assert named
    for name in named:
        if "/" in name:
            ending = f"/{name.strip('/')}"
            assert any(path.endswith(ending) for path in names), f"no module or folder is {name}"
        else:
            assert name in names, f"nothing is called {name}"


def test_word_is_explained_once() -> None:
    words = [cells[0] for cells in rows()]
    assert sorted(words) == sorted(set(words))
