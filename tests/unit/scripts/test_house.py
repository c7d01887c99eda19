"""How the code is laid out: short modules, imports without circles, few rooms. What is not so yet is listed by name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("protocol", "node", "router", "client", "cli", "simulation")
MOST_LINES = 1000
MOST_ROOMS = {"node": 11, "router": 20}
"""Folders and modules at the top of a package."""


def sources() -> Iterator[Path]:
    """Yield all of the project's code but its tests."""
    for package in PACKAGES:
        yield from sorted((ROOT / package / "src").rglob("*.py"))
    for folder in ("benchmarks", "scripts"):
        yield from sorted((ROOT / folder).glob("*.py"))


def test_modules_are_short() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path in sources()
        if len(path.read_text("utf-8").splitlines()) > MOST_LINES
    }
    assert long == set(), f"over {MOST_LINES} lines: split"


@pytest.mark.parametrize("package", PACKAGES)
def test_unit_tests_lie_as_what_they_test(package: str) -> None:
    tests, sources_at = ROOT / "tests" / "unit" / package, ROOT / package / "src/capamesh" / package
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert {str(one) for one in folders if not (sources_at / one).is_dir()} == set()


def imports_of(package: str) -> dict[str, set[str]]:
    """Return what each module of a package imports of it, for types too."""
    base = ROOT / package / "src"
    modules = {
        ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"): path
        for path in base.rglob("*.py")
    }
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            named: Iterable[str] = ()
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                named = [each for each in inner if each in modules] or [node.module]
            elif isinstance(node, ast.Import):
                named = [alias.name for alias in node.names if alias.name in modules]
            found[name].update(each for each in named if each != name)
    return found


def circles(graph: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Return the groups of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for each in graph.get(todo.pop(), ()):
                if each not in seen:
                    seen.add(each)
                    todo.append(each)
        return seen

    reach = {name: reached(name) for name in list(graph)}
    return {
        tuple(sorted(other for other in reach[name] if name in reach.get(other, ())))
        for name in reach
        if name in reach[name]
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other(package: str) -> None:
    assert circles(imports_of(package)) == set()


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set[str]()}
    assert circles(graph) == {("a", "b", "c")}


@pytest.mark.parametrize(("package", "most"), MOST_ROOMS.items())
def test_package_has_few_rooms(package: str, most: int) -> None:
    top = ROOT / package / "src" / "capamesh" / package
    rooms = [
        path
        for path in top.iterdir()
        if (path.suffix == ".py" and path.name != "__init__.py") or (path / "__init__.py").is_file()
    ]
    assert len(rooms) <= most, sorted(path.name for path in rooms)
