"""Checks what import-linter has no contract for: modules that say they are pure, and imports that go in a circle.

A module whose docstring says "Pure.", "Does no IO." or "IO: links." imports no library that does IO or reads a clock: it gets
time and effects from its callers. "Pure but for threads." says what it imports, and is not checked. `make imports` runs this.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import grimp

ROOT: Final = Path(__file__).resolve().parents[1]
PARTS: Final = ("protocol", "node", "router", "client", "simulation", "cli")
CLAIM: Final = re.compile(
    r"\bPure\b(?!,? but)|\b[Nn]o (?:other )?IO(?: of its own)?[.;]"
    r"|\bIO: (?:none|dispatch|(?:its )?links?|the turn's connection)\."
)
"""The words of a module that does no IO, or only by what it is given."""
IMPURE: Final = frozenset(
    [
        "aiohttp",
        "asyncio",
        "libp2p",
        "onnxruntime",
        "os",
        "pynvml",
        "secrets",
        "select",
        "socket",
        "ssl",
        "subprocess",
        "threading",
        "time",
        "trio",
        "uvloop",
    ]
)


def documents() -> dict[str, str]:
    """Return the docstring of each module by its name."""
    found = {}
    for path in ROOT.glob("*/src/capamesh/**/*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts[2:]
        tree = ast.parse(path.read_text("utf-8"))
        found[".".join(parts).removesuffix(".__init__")] = ast.get_docstring(tree) or ""
    return found


def impure(graph: grimp.ImportGraph, claims: dict[str, str]) -> Iterator[str]:
    """Yield the modules that say they are pure and import what is not."""
    for module in sorted(graph.modules & claims.keys()):
        claim = CLAIM.search(claims[module])
        found = graph.find_modules_directly_imported_by(module) & IMPURE
        if claim and found:
            yield (
                f'{module} says "{claim[0]}" and imports {", ".join(sorted(found))}: '
                "have it given what it needs of these, or say what it does"
            )


def circles(graph: grimp.ImportGraph) -> Iterator[str]:
    """Yield a circle of modules that import each other, types included, if there is one."""
    imports = {
        module: graph.find_modules_directly_imported_by(module)
        for module in graph.modules
        if module.startswith("capamesh.")
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        yield f"modules import each other: {' <- '.join(error.args[1])}: move what both need"


def main() -> int:
    """Run the checks; return the exit status."""
    packages = [f"capamesh.{part}" for part in PARTS]
    at_run_time = grimp.build_graph(
        *packages, include_external_packages=True, exclude_type_checking_imports=True
    )
    claims = documents()
    faults = [*impure(at_run_time, claims), *circles(grimp.build_graph(*packages))]
    pure = sum(1 for text in claims.values() if CLAIM.search(text))
    print(
        "\n".join(faults)
        or f"imports: {pure} of {len(claims)} modules are pure; no modules import each other in a circle"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
