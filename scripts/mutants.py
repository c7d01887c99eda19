"""Lists the places of our code where one small break may be made (a mutant), and makes the broken code. Pure.

A mutant is known by its module, its function, its kind and its text, not by its line: it keeps its key while code around it
changes, so a sample by keys stays nearly the same from commit to commit.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType

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
QUIET_METHODS = frozenset({"__repr__", "__str__"})
"""Methods for people's eyes, which no test needs to pin."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One break of one module.

    Args:
        path: the module, from the root of the project.
        function: the qualified name of the outermost function that is broken.
        what: the kind of break.
        text: the code that is broken.
        turn: its place among equal breaks of equal text in this function.
        line: where the code is.
        first_line: the first line of the statement, or of the head of the block, that it is in.
        last_line: the last line of that.
        number: its place among the mutants of the module.
    """

    path: str
    function: str
    what: str
    text: str
    turn: int
    line: int
    first_line: int
    last_line: int
    number: int

    @property
    def key(self) -> str:
        """The name of the mutant, which stays while code around it changes."""
        return f"{self.path}|{self.function}|{self.what}|{self.text}|{self.turn}"


def _unreached(statement: ast.stmt) -> ast.If:
    """Return the statement where it never runs: the function's variables stay what they were."""
    return ast.If(ast.Constant(False), [copy.deepcopy(statement)], [])


def mutations(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Yield what `node` may be replaced by, each with a word for it and the part that tells it from others."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            other = copy.deepcopy(node)
            other.ops = [COMPARISONS[type(op)]()]
            yield "comparison", other, node
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            changed = copy.deepcopy(node)
            changed.op = ARITHMETIC[type(op)]()
            yield "arithmetic", changed, node
        case ast.BoolOp(op=op):
            joined = copy.deepcopy(node)
            joined.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "and/or", joined, node
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", copy.deepcopy(operand), node
        case ast.If(test=test) | ast.IfExp(test=test) if not isinstance(
            test, ast.Compare | ast.BoolOp | ast.UnaryOp
        ):
            turned = copy.deepcopy(node)
            turned.test = ast.UnaryOp(ast.Not(), copy.deepcopy(test))
            yield "condition", turned, test
        case ast.Constant(value=bool() as value):
            yield "truth", ast.Constant(not value), node
        case ast.Constant(value=int() | float() as value):
            yield "number", ast.Constant(value + 1), node
        case ast.Expr(value=ast.Call() | ast.Await(ast.Call())):
            yield "call removed", _unreached(node), node
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            nothing = _unreached(node)
            nothing.orelse = [ast.Return(ast.Constant(None))]
            yield "returns nothing", nothing, node
        case ast.Assign(targets=[ast.Attribute()], value=ast.Name() | ast.Call()):
            yield "assignment removed", _unreached(node), node
        case _:
            pass


class _Walk(ast.NodeTransformer):
    """Walks the code of functions; lists the mutants on its way, or makes the one with a number."""

    def __init__(self, path: str, number: int | None = None) -> None:
        self.found: list[Mutant] = []
        self._path = path
        self._number = number
        self._is_made = False
        self._classes: list[str] = []
        self._function = ""
        self._lines = (0, 0)
        self._turns: Counter[tuple[str, str, str]] = Counter()

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if self._function:
            return super().generic_visit(node)
        self._classes.append(node.name)
        node.body = [self.visit(each) for each in node.body]
        self._classes.pop()
        return node

    def _in_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if node.name in QUIET_METHODS:
            return node
        outer = self._function
        self._function = outer or ".".join([*self._classes, node.name])
        node.body = [self.visit(each) for each in node.body]
        self._function = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._in_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._in_function(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self._lines = (node.lineno, node.end_lineno or node.lineno)
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.stmt):
            block = getattr(node, "body", None)
            last = max(node.lineno, block[0].lineno - 1) if block else node.end_lineno
            self._lines = (node.lineno, last or node.lineno)
        if self._function and not self._is_made:
            for what, other, part in mutations(node):
                number = len(self.found)
                text = ast.unparse(part)
                turn = self._turns[self._function, what, text]
                self._turns[self._function, what, text] += 1
                line = getattr(part, "lineno", self._lines[0])
                self.found.append(
                    Mutant(self._path, self._function, what, text, turn, line, *self._lines, number)
                )
                if number == self._number:
                    self._is_made = True
                    return ast.copy_location(other, node)
        return super().generic_visit(node)


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Return all mutants of a module, in the order of its code."""
    walk = _Walk(path)
    walk.visit(ast.parse(source))
    return walk.found


def tree_of(mutant: Mutant, source: str) -> ast.Module:
    """Return the module's syntax tree with the mutant in it."""
    tree = ast.parse(source)
    _Walk(mutant.path, mutant.number).visit(tree)
    return ast.fix_missing_locations(tree)


Place = tuple[str, int]
"""The qualified name of a function and its first line: what tells its code in a module."""


def codes_in(code: CodeType) -> Iterator[tuple[Place, CodeType]]:
    """Yield the code of all functions that are written inside this code."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield (each.co_qualname, each.co_firstlineno), each
            yield from codes_in(each)


def broken_codes(mutant: Mutant, source: str, filename: str) -> dict[Place, CodeType]:
    """Return the code of the function that is broken, and of those inside it."""
    whole = compile(tree_of(mutant, source), filename, "exec", dont_inherit=True)
    inside = f"{mutant.function}."
    return {
        place: code
        for place, code in codes_in(whole)
        if place[0] == mutant.function or place[0].startswith(inside)
    }


def sample(mutants: Iterable[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return so many of the mutants, chosen by their keys; all where `count` is 0."""

    def draw(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{seed}|{mutant.key}".encode()).digest()

    drawn = sorted(mutants, key=draw)
    return drawn[:count] if count else drawn
