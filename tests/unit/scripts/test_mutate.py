"""The breaks that `scripts/mutate.py` makes: where they may be, that each changes the code, and which tests they are for."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCE = '''
LIMIT = 3 + 4

class Door:
    """Opens."""

    is_open = True

    def __repr__(self) -> str:
        return "Door" + str(LIMIT)

    def push(self, force: int, times: int = 2) -> bool:
        if force < LIMIT and times:
            self.creak()
            self.is_open = bool(force)
            raise ValueError(force + 1)
        return not self.is_open
'''


@pytest.fixture(name="mutate")
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("mutate", ROOT / "scripts/mutate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutate", module)
    spec.loader.exec_module(module)
    return module


def test_mutants_are_of_functions_alone(
    mutate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    (tmp_path / "door.py").write_text(SOURCE)

    found = mutate.mutants_of(tmp_path / "door.py")

    assert [(each.line, each.what) for each in found] == [
        (13, "and/or"),
        (13, "comparison"),
        (14, "call removed"),
        (15, "assignment removed"),
        (17, "returns nothing"),
        (17, "not"),
    ]


def test_mutants_each_change_the_code_in_their_own_way(
    mutate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    (tmp_path / "door.py").write_text(SOURCE)
    found = mutate.mutants_of(tmp_path / "door.py")

    broken = {ast.unparse(mutate.tree_of(each)) for each in found}

    assert len(broken) == len(found)
    assert ast.unparse(ast.parse(SOURCE)) not in broken


def test_tests_of_a_module_are_its_own_first(mutate: ModuleType) -> None:
    own, whole = mutate.tests_of("router/src/capamesh/router/requests/blame.py")

    assert own == ["tests/unit/router/requests/test_blame.py", "tests/unit/router/requests"]
    assert whole == ["tests/unit/router"]
    assert mutate.name_of("router/src/capamesh/router/requests/blame.py") == (
        "capamesh.router.requests.blame"
    )


def test_middle_of_the_router_exists(mutate: ModuleType) -> None:
    assert all(mutate.modules_in([each]) for each in mutate.MIDDLE)
