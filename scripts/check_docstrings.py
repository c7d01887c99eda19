"""Finds docstrings that are no full sentences, and those of functions on tensors that tell no shape, datatype or layout.

    python scripts/check_docstrings.py                      all of the project's code
    python scripts/check_docstrings.py router/src/… a.py    these files and folders

The subject of a docstring is what it documents: "The requests in flight of one replica.", or "Return the ...". One that
begins with "How", "Of" or "None:" has no subject, and whoever reads it alone does not know of what it speaks. Strings
below constants and attributes count as their docstrings. `make lint` runs this.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("protocol", "node", "router", "client", "cli", "simulation", "benchmarks", "scripts")
TENSOR_FOLDERS = (
    "protocol/src/capamesh/protocol/tensors/",
    "protocol/src/capamesh/protocol/oip/",
    "node/src/capamesh/node/runtime/",
    "client/src/capamesh/client/",
)
"""The folders whose public functions on tensors must say what the tensors look like."""

QUESTIONS = "how what when where whether which who whom whose why"
PRONOUNS = "it its that they them those"
PREPOSITIONS = (
    "above after as at before behind below besides between beyond by for from in of on since to until"
    " with within without"
)
CONJUNCTIONS = "and but if so unless while"
PARTICIPLES = (
    "kept told made taken given known remembered resolved handed queued likewise never not set"
)
VALUES = "none true false empty guess guesses measured infinity"
"""Words that are a value or a source when a colon, a comma or a full stop follows: "None: it is over"."""
FRAGMENT = re.compile(
    rf"(?:{'|'.join(f'{QUESTIONS} {PRONOUNS} {PREPOSITIONS} {CONJUNCTIONS}'.split())})(?![-\w])"
    rf"|(?:{'|'.join(VALUES.split())})[:,.;]|[-\d.]+:|\"\"|part of `",
    re.IGNORECASE,
)
FRAGMENT_OF_VALUE = re.compile(rf"(?:{'|'.join(PARTICIPLES.split())})\b", re.IGNORECASE)
"""The words are verbs in a function's docstring, with the function as their subject; below a value they cannot be."""
FRAGMENT_OF_FUNCTION = re.compile(r"`[^`]+`:")
"""An argument with a colon is no sentence: "`is_warm`: it has run before"."""
TENSOR = re.compile(r"\b(?:Tensor|ndarray|NDArray|ArrayLike)\b")
TENSOR_WORDS = re.compile(
    r"\b(?:shapes?|datatypes?|dtypes?|layout|axis|as described by)\b", re.IGNORECASE
)
ADVICE = {
    "module": 'name what the module holds or does: "The ...", "Reads ..."',
    "class": 'name the thing: "The ...", "A ...", or say what it does: "Keeps ..."',
    "function": 'begin with a verb: "Return whether ...", or name what a property is: "The ...", "True while ..."',
    "value": 'name the value: "The ...", "Seconds between ...", "True while ..."',
}
"""The words to write instead, by what is documented."""
KINDS: dict[type, str] = {
    ast.Module: "module",
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "function",
}
"""The kinds of what has a docstring as its first statement."""
FIRST_WORDS = 6
"""The number of words of a docstring that a message shows."""


class Finding(NamedTuple):
    """One docstring that is to be rewritten."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


class Documented(NamedTuple):
    """One docstring with what it documents."""

    kind: str
    """A key of `ADVICE`."""
    line: int
    text: str
    node: ast.AST


def docstrings(tree: ast.Module) -> Iterator[Documented]:
    """Yield the docstrings of a module, of all in it, and of its constants and attributes."""
    for node in ast.walk(tree):
        kind = KINDS.get(type(node), "")
        body = getattr(node, "body", None)
        for index, statement in enumerate(body if isinstance(body, list) else ()):
            text = text_of(statement)
            if text is None:
                continue
            if index == 0 and kind:
                yield Documented(kind, statement.lineno, text, node)
            elif index > 0 and isinstance(body[index - 1], ast.Assign | ast.AnnAssign):
                yield Documented("value", statement.lineno, text, body[index - 1])


def text_of(statement: ast.stmt) -> str | None:
    """Return the text of a statement that is nothing but a string, None for all others."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        text = statement.value.value
        return text if isinstance(text, str) else None
    return None


def is_fragment(kind: str, text: str) -> bool:
    """Return whether a docstring begins with a word that leaves it without a subject."""
    further = {"value": FRAGMENT_OF_VALUE, "function": FRAGMENT_OF_FUNCTION}.get(kind)
    words = text.strip()
    return FRAGMENT.match(words) is not None or (
        further is not None and further.match(words) is not None
    )


def fragments(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Yield the docstrings that have no subject."""
    for found in docstrings(tree):
        if is_fragment(found.kind, found.text):
            first = " ".join(found.text.split()[:FIRST_WORDS])
            yield Finding(path, found.line, f'"{first} ..." has no subject: {ADVICE[found.kind]}')


def untold_tensors(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Yield the public functions that take or return tensors, and do not say what these look like."""
    for found in docstrings(tree):
        node = found.node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_override = any(ast.unparse(each) == "override" for each in node.decorator_list)
        if node.name.startswith("_") or is_override or TENSOR_WORDS.search(found.text):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        hints = [each.annotation for each in arguments] + [node.returns]
        if any(TENSOR.search(ast.unparse(hint)) for hint in hints if hint is not None):
            yield Finding(
                path,
                found.line,
                f"`{node.name}` is public and has tensors: say their shape, datatype or layout, or"
                ' "as described by ..."',
            )


def findings_of(path: Path) -> list[Finding]:
    """Return all that is to be rewritten in one file, in the order of its lines."""
    shown = path.resolve().relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text("utf-8"))
    found = list(fragments(shown, tree))
    if shown.startswith(TENSOR_FOLDERS):
        found += untold_tensors(shown, tree)
    return sorted(found, key=lambda finding: finding.line)


def python_files(places: Iterable[Path]) -> Iterator[Path]:
    """Yield the files and those within the folders."""
    for place in places:
        if place.is_dir():
            yield from sorted(place.rglob("*.py"))
        else:
            yield place


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; return the exit status: 1 where there is something to rewrite."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("places", nargs="*", type=Path, help="files and folders; none: all")
    places = parser.parse_args(arguments).places or [ROOT / folder for folder in FOLDERS]
    faults = [each for path in python_files(places) for each in findings_of(path)]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
