from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from capamesh.protocol.gc_tuning import THRESHOLDS, freeze_loaded_objects
freeze_loaded_objects()
assert gc.get_freeze_count() > 1000, gc.get_freeze_count()
assert gc.get_threshold() == THRESHOLDS
assert gc.isenabled()
"""


def test_loaded_objects_are_spared_and_the_collector_goes_on() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
