"""The checks of imports that import-linter has no contract for."""

from __future__ import annotations

import check_imports
import grimp

ONE, TWO, THREE = "capamesh.one", "capamesh.two", "capamesh.three"


def graph(*imports: tuple[str, str]) -> grimp.ImportGraph:
    made = grimp.ImportGraph()
    for importer, imported in imports:
        made.add_import(importer=importer, imported=imported)
    return made


def test_module_that_says_it_is_pure_imports_nothing_that_is_not() -> None:
    is_checked = {
        "Adds. Pure.": True,
        "Adds. Pure; the time is an argument.": True,
        "Holds state, does no IO.": True,
        "Sends. IO: links.": True,
        "Adds. Pure but for a lock.": False,
        "Sends. IO: asyncio.": False,
        "Waits. No IO until it is run.": False,
    }
    imports = graph((ONE, TWO), (ONE, "asyncio"))
    for docstring, has_fault in is_checked.items():
        found = list(check_imports.impure(imports, {ONE: docstring}))
        assert [fault.partition(" says ")[0] for fault in found] == [ONE] * has_fault, docstring


def test_circle_is_found() -> None:
    assert list(check_imports.circles(graph((ONE, TWO), (TWO, THREE)))) == []
    (fault,) = check_imports.circles(graph((ONE, TWO), (TWO, THREE), (THREE, ONE)))
    assert {ONE, TWO, THREE} <= set(fault.replace(":", "").split())
