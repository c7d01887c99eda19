"""Breaks the router's middle in one small place at a time and counts how often the unit tests notice.

Each break (a mutant) is applied to a module as it is imported by a forked process; no file is changed. The process runs the
tests of the module's own folder, then those of the whole router, until one fails; sources run, whatever lies compiled
beside them. A run of a sample is chosen by a seed, so that two commits can be compared. What survives is printed with its
line: a missing test, or a line that does nothing.

    python scripts/mutate.py --sample 200
    python scripts/mutate.py router/src/capamesh/router/requests/blame.py
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
MIDDLE = (
    "router/src/capamesh/router/requests",
    "router/src/capamesh/router/balancing",
    "router/src/capamesh/router/admission",
)
PATIENCE_S = 180.0
"""A mutant whose tests take longer hangs, and counts as noticed (guess: four times what all tests take)."""
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
WARM = ("numpy", "aiohttp", "cryptography.x509", "msgspec", "capamesh.protocol")
"""The modules that are imported once, before the forks. The last decides that sources run, not what they were compiled to."""
QUIET_METHODS = frozenset({"__repr__", "__str__"})
"""Methods for people's eyes, which no test needs to pin."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One break of one module."""

    path: str
    line: int
    number: int
    """The mutant's place among those of its module."""
    what: str


def mutations(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield what `node` may be replaced by, each with a word for it."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            other = copy.deepcopy(node)
            other.ops = [COMPARISONS[type(op)]()]
            yield "comparison", other
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            changed = copy.deepcopy(node)
            changed.op = ARITHMETIC[type(op)]()
            yield "arithmetic", changed
        case ast.BoolOp(op=op):
            joined = copy.deepcopy(node)
            joined.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "and/or", joined
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", copy.deepcopy(operand)
        case ast.If(test=test) | ast.IfExp(test=test) if not isinstance(
            test, ast.Compare | ast.BoolOp | ast.UnaryOp
        ):
            turned = copy.deepcopy(node)
            turned.test = ast.UnaryOp(ast.Not(), copy.deepcopy(test))
            yield "condition", turned
        case ast.Constant(value=bool() as value):
            yield "truth", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield "number", ast.Constant(value + 1)
        case ast.Expr(value=ast.Call()):
            yield "call removed", ast.Pass()
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield "returns nothing", ast.Return(ast.Constant(None))
        case ast.Assign(targets=[ast.Attribute()], value=ast.Name() | ast.Call()):
            yield "assignment removed", ast.Pass()
        case _:
            pass


class _Walk(ast.NodeTransformer):
    """Walks the code of functions; lists the mutants on its way, or makes the one with a number."""

    def __init__(self, path: str, number: int | None = None) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._number = number
        self._depth = 0

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if node.name in QUIET_METHODS:
            return node
        self._depth += 1
        node.body = [self.visit(each) for each in node.body]
        self._depth -= 1
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if self._depth:
            for what, other in mutations(node):
                number = len(self.found)
                self.found.append(Mutant(self._path, getattr(node, "lineno", 0), number, what))
                if number == self._number:
                    self._number = -1
                    return ast.copy_location(other, node)
        return super().generic_visit(node)


def mutants_of(path: Path) -> list[Mutant]:
    """Return all mutants of a module, in the order of its code."""
    walk = _Walk(str(path.relative_to(ROOT)))
    walk.visit(ast.parse(path.read_text("utf-8")))
    return walk.found


def tree_of(mutant: Mutant) -> ast.Module:
    """Return the module's syntax tree with the mutant in it."""
    tree = ast.parse((ROOT / mutant.path).read_text("utf-8"))
    _Walk(mutant.path, mutant.number).visit(tree)
    return ast.fix_missing_locations(tree)


def code_of(mutant: Mutant) -> CodeType:
    """Return the module's code with the mutant in it."""
    return compile(tree_of(mutant), str(ROOT / mutant.path), "exec")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the module that is broken before the import system finds it as it is."""

    def __init__(self, name: str, mutant: Mutant) -> None:
        self._name = name
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        del path, target
        origin = str(ROOT / self._mutant.path)
        loader = _Loader(fullname, origin, self._mutant)
        return importlib.util.spec_from_file_location(fullname, origin, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, origin: str, mutant: Mutant) -> None:
        super().__init__(name, origin)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return code_of(self._mutant)


def modules_in(paths: Sequence[str]) -> list[Path]:
    """Return the modules that are named, or lie in a folder that is."""
    named = [ROOT / each for each in paths]
    return sorted(
        file for each in named for file in (each.rglob("*.py") if each.is_dir() else [each])
    )


def name_of(path: str) -> str:
    """Return the name by which a module is imported."""
    return path.split("/src/", 1)[1].removesuffix(".py").replace("/", ".")


def tests_of(path: str) -> list[list[str]]:
    """Return what to run for a module, nearest first: its own tests and their folder's, then its package's."""
    package, inside = path.split("/src/capamesh/", 1)
    relative = Path(inside)
    folder = Path("tests/unit") / relative.parent
    own = folder / f"test_{relative.stem}.py"
    near = [str(each) for each in (own, folder) if (ROOT / each).exists()]
    return [near, [f"tests/unit/{package}"]] if near else [[f"tests/unit/{package}"]]


def start(mutant: Mutant | None, path: str, tests: Sequence[str]) -> int:
    """Start the tests in a process of their own; return its id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for each in (0, 1, 2):
        os.dup2(null, each)
    if mutant is not None:
        sys.meta_path.insert(0, _Finder(name_of(path), mutant))
    code = 70
    try:
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]))
    finally:
        os._exit(code)


def passes_whole(tests: Iterable[str]) -> bool:
    """Return whether the tests pass while nothing is broken."""
    _, status = os.waitpid(start(None, "", sorted(tests)), 0)
    return status == 0


class Runner:
    """Runs mutants, some at once, each until a test fails."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: dict[int, tuple[Mutant, list[list[str]], float]] = {}

    def run(self, mutants: Sequence[Mutant]) -> Iterator[tuple[Mutant, bool]]:
        """Yield each mutant with whether a test noticed it, in the order in which they end."""
        todo = list(reversed(mutants))
        while todo or self._running:
            while todo and len(self._running) < self._jobs:
                mutant = todo.pop()
                self._start(mutant, tests_of(mutant.path))
            pid, code = self._wait()
            mutant, later, _ = self._running.pop(pid)
            if code == 0 and later:
                self._start(mutant, later)
            else:
                yield mutant, code != 0

    def _start(self, mutant: Mutant, stages: list[list[str]]) -> None:
        pid = start(mutant, mutant.path, stages[0])
        self._running[pid] = (mutant, stages[1:], time.monotonic() + PATIENCE_S)

    def _wait(self) -> tuple[int, int]:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in self._running:
                return pid, os.waitstatus_to_exitcode(status)
            now_s = time.monotonic()
            for each, (_, _, until_s) in self._running.items():
                if now_s > until_s:
                    os.killpg(each, signal.SIGKILL)
            time.sleep(0.02)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("paths", nargs="*", default=MIDDLE, help="modules or folders")
    parser.add_argument("--sample", type=int, default=0, help="so many of all mutants; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--least", type=float, default=0.0, help="fail below this share, 0 to 1")
    parser.add_argument("--json", action="store_true", help="one JSON map on standard output")
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ["CAPAMESH_PURE"] = "1"
    for library in WARM:
        importlib.import_module(library)
    mutants = [mutant for file in modules_in(args.paths) for mutant in mutants_of(file)]
    every = len(mutants)
    if args.sample and args.sample < every:
        mutants = random.Random(args.seed).sample(mutants, args.sample)  # noqa: S311
    if not passes_whole({tests for each in mutants for tests in tests_of(each.path)[-1]}):
        print("the tests fail with nothing broken: mend them first", file=sys.stderr)
        return 2
    survivors: list[Mutant] = []
    for done, (mutant, is_noticed) in enumerate(Runner(args.jobs).run(mutants), 1):
        if not is_noticed:
            survivors.append(mutant)
            source = (ROOT / mutant.path).read_text("utf-8").splitlines()[mutant.line - 1].strip()
            print(f"{mutant.path}:{mutant.line}: {mutant.what}: {source}", file=sys.stderr)
        elif done % 10 == 0:
            print(f"{done} of {len(mutants)}, {len(survivors)} survive", file=sys.stderr)
    share = 1 - len(survivors) / max(1, len(mutants))
    if args.json:
        survived = [asdict(each) for each in sorted(survivors, key=lambda m: (m.path, m.line))]
        print(
            json.dumps(
                {"mutants": len(mutants), "of": every, "noticed": share, "survivors": survived}
            )
        )
    else:
        print(f"{share:.1%} of {len(mutants)} mutants noticed ({every} in all)")
    return 0 if share >= args.least else 1


if __name__ == "__main__":
    sys.exit(main())
