"""Checks that tests wait for events and virtual time, never for a real clock, and that ports are bound, not chosen.

    python scripts/check_tests.py             part of `make lint`
    python scripts/check_tests.py --write     lower the counts in tests/waits.txt to what is left

A test that sleeps or polls is slow on each run and fails on a busy machine; a port that is chosen before it is bound may be
taken by then. tests/waits.txt has the places that were there before: a file's count may only fall. Tests of whole processes
(e2e, hostile, clients, gpu) can only poll, and support polls for them: of these the ports alone are counted. What asyncio waits for is not counted where
the loop is virtual: in the folders of `LOOPS` but for what their conftest.py or a mark gives the real loop, and in modules that
use a virtual loop.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
COUNTS: Final = Path("tests/waits.txt")
IN_PROCESS: Final = ("tests/unit/", "tests/integration/", "tests/simulation/")
LOOPS: Final = ("tests/integration/", "tests/unit/router/")
"""The folders whose loop is a virtual one, but for the places that `REAL` in their conftest.py names."""
VIRTUAL: Final = ("virtual_time", "VirtualLoop", "SimLoop", "sim_loop", "simulation.world")
"""Names by which a module's loop is a virtual one."""
CLOCKS: Final = ("time.monotonic", "time.perf_counter", "time.process_time", "time.time")
ADVICE: Final = {
    "sleeps": "wait for an event, or give the code a clock of the test's own",
    "waits": "wait for an event, or run on the virtual loop",
    "reads a clock": "give the code a clock of the test's own; speed is a benchmark's matter",
    "chooses a port": "bind port 0, and ask what listens for its port",
}


class Wait(NamedTuple):
    """One place of a test that waits for a clock, or picks a port."""

    line: int
    what: str
    """A key of `ADVICE`."""


def waits(path: str, text: str, virtual: Sequence[str] = VIRTUAL) -> list[Wait]:
    """Return the places of a test module, in the order of its lines. `virtual`: what a module names whose loop is a virtual one."""
    is_simulated = path.startswith(LOOPS) and not path.startswith(real_places())
    is_virtual = (is_simulated and "real_loop" not in text) or any(name in text for name in virtual)
    is_counted = {
        "chooses a port": True,
        "sleeps": path.startswith(IN_PROCESS),
        "reads a clock": path.startswith(IN_PROCESS),
        "waits": path.startswith(IN_PROCESS) and not is_virtual,
    }
    return sorted(each for each in _found_in(ast.parse(text)) if is_counted[each.what])


def _found_in(tree: ast.Module) -> Iterator[Wait]:
    pollers: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "patience":
            pollers |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module == "free_ports":
            yield Wait(node.lineno, "chooses a port")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "time.sleep":
            yield Wait(node.lineno, "sleeps")
        elif (
            name == "asyncio.sleep" and ast.unparse(node.args[0]) not in {"0", "0.0"}
        ) or name in pollers:
            yield Wait(node.lineno, "waits")
        elif name in CLOCKS:
            yield Wait(node.lineno, "reads a clock")


@functools.cache
def real_places() -> tuple[str, ...]:
    """Return the folders and files of `LOOPS` whose loop is the real one: the keys of REAL in their conftest.py."""
    found: list[str] = []
    for folder in LOOPS:
        for node in ast.parse((ROOT / folder / "conftest.py").read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REAL":
                found += [folder + each for each in ast.literal_eval(node.value)]
    return tuple(found)


def virtual_names() -> list[str]:
    """Return what modules with a virtual loop name: the loop, or a module of tests/support that has it."""
    support = sorted((ROOT / "tests/support").glob("*.py"))
    having = [path.stem for path in support if any(name in path.read_text() for name in VIRTUAL)]
    return [*VIRTUAL, *(f"from {name} import" for name in having)]


def counted() -> dict[str, int]:
    """Return the number of places that each file may have."""
    lines = (ROOT / COUNTS).read_text("utf-8").splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {path: int(number) for number, path in pairs}


def faults_of(path: str, found: Sequence[Wait], allowed: int) -> Iterator[str]:
    """Yield what is wrong with one file: each place where there are too many, or that its count can fall."""
    if len(found) > allowed:
        for line, what in found:
            yield f"{path}:{line}: {what}: {ADVICE[what]}"
        yield f"{path}: {len(found)} such places, {allowed} are let pass by {COUNTS}"
    elif len(found) < allowed:
        yield f"{path}: {len(found)} such places, {COUNTS} says {allowed}: run scripts/check_tests.py --write"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="lower the counts, never raise one")
    is_write = parser.parse_args(arguments).write
    allowed = counted()
    paths = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    names = virtual_names()
    found = {path: waits(path, (ROOT / path).read_text("utf-8"), names) for path in sorted(paths)}
    if is_write:
        allowed = {path: min(len(found.get(path, ())), most) for path, most in allowed.items()}
        head = [line for line in (ROOT / COUNTS).read_text("utf-8").splitlines() if line[:1] == "#"]
        kept = [f"{number} {path}" for path, number in sorted(allowed.items()) if number]
        (ROOT / COUNTS).write_text("\n".join([*head, *kept]) + "\n", "utf-8")
    faults = [
        fault
        for path in sorted({*found, *allowed})
        for fault in faults_of(path, found.get(path, ()), allowed.get(path, 0))
    ]
    print("\n".join(faults) or f"tests: {sum(allowed.values())} waits are left")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
