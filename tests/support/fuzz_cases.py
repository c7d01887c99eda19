"""The made-up cases of a fuzzer: few in the usual run, more and others where `make test-fuzz` asks for them."""

from __future__ import annotations

import os


def seeds(usual: int) -> range:
    """Return the seeds of `usual` cases, or of as many as CAPAMESH_FUZZ_CASES says, from CAPAMESH_FUZZ_SEED on."""
    first = int(os.environ.get("CAPAMESH_FUZZ_SEED", "0"))
    return range(first, first + int(os.environ.get("CAPAMESH_FUZZ_CASES", usual)))
