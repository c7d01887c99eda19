"""Runs tests with the garbage collector at work after every few objects: what it frees too soon is then missed at once.

python tests/support/gc_stress.py PATHS AND OPTIONS OF PYTEST
"""

from __future__ import annotations

import faulthandler
import gc
import sys

import pytest

THRESHOLDS = (7, 3, 3)
"""A collection after 7 new objects, of an older generation with every third (guess: many within the shortest test)."""


class EagerCollector:
    def pytest_runtest_setup(self) -> None:
        gc.set_threshold(*THRESHOLDS)


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(pytest.main(sys.argv[1:], plugins=[EagerCollector()]))
