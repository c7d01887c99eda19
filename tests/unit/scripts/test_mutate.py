"""What `scripts/mutate.py` does: the breaks it makes, what it finds in a small project, and how it lists tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mutants
import mutation_report
import pytest

ROOT = Path(__file__).resolve().parents[3]
DOOR = '''
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
KNOB = """
def turned(degrees: int) -> int:
    if degrees > 360:
        return degrees - 360
    return abs(degrees)


def unused() -> int:
    return abs(1)
"""
TESTS = """
from capamesh.protocol import knob

def test_whole_turn() -> None:
    assert knob.turned(361) == 1

def test_no_turn() -> None:
    assert knob.turned(0) == 0
"""


def test_mutants_are_of_functions_alone() -> None:
    found = mutants.mutants_of("door.py", DOOR)

    assert {each.function for each in found} == {"Door.push"}
    assert [(each.line, each.what) for each in found] == [
        (13, "and/or"),
        (13, "comparison"),
        (14, "call removed"),
        (15, "assignment removed"),
        (17, "returns nothing"),
        (17, "not"),
    ]


def _mutate(root: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/mutate.py", *args, "--json", "found.json"],
        cwd=root,
        env={"PYTHONPATH": "protocol/src", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(name="project")
def small_project(tmp_path: Path) -> Path:
    """Return the root of a project with one module and its tests."""
    files = {
        "protocol/src/capamesh/protocol/__init__.py": "",
        "protocol/src/capamesh/protocol/knob.py": KNOB,
        "tests/unit/protocol/test_knob.py": TESTS,
    }
    for script in ("mutants.py", "mutate.py", "mutation_report.py"):
        files[f"scripts/{script}"] = (ROOT / "scripts" / script).read_text()
    for place, text in files.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    return tmp_path


@pytest.mark.full
def test_each_mutant_is_told_with_the_tests_that_notice_it(project: Path) -> None:
    run = _mutate(project, "--matrix", "--least", "protocol=0.9", "0.5")

    assert run.returncode == 1, run.stderr
    assert run.stdout.splitlines()[-1] == "protocol: 62.5% is below the floor of 90.0%"
    killers = {
        (each["line"], each["what"]): [name.split("::")[1] for name in each["killers"]]
        for each in json.loads((project / "found.json").read_text())["mutants"]
    }
    whole, no = ["test_whole_turn"], ["test_no_turn"]
    assert killers == {
        (3, "comparison"): [],
        (3, "number"): whole,
        **dict.fromkeys([(4, "returns nothing"), (4, "arithmetic"), (4, "number")], whole),
        (5, "returns nothing"): no,
        (9, "returns nothing"): [],
        (9, "number"): [],
    }


def _test(name: str) -> str:
    return f"tests/{name}.py::test_{name}"


def _matrix(*killers: Sequence[str]) -> dict[str, object]:
    door = {"path": "router/door.py", "what": "not", "text": "x"}
    return {
        "tests": {_test(name): {"lines": 3, "cpu_s": 0.5, "tried": 2} for name in "abc"},
        "mutants": [
            {**door, "key": str(place), "line": place, "killers": [_test(name) for name in some]}
            for place, some in enumerate(killers)
        ],
    }


def test_mutant_that_is_noticed_no_longer_is_told_with_who_did() -> None:
    before = _matrix("a", "ab", "")
    now = _matrix("a", "", "c")["mutants"]

    assert list(mutation_report.compared(before, now)) == [
        "0 of 3 mutants are no more",
        "noticed no longer: router/door.py:1: not: x  (was by tests/a.py::test_a, tests/b.py::test_b)",
        "noticed now: router/door.py:2: not: x",
        "before 66.7%, now 66.7% of 3",
    ]
