"""How quick this machine is, for bars on processor time: all of it takes longer on a slower processor."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

_IMPORTS: Final = "import time, aiohttp, numpy, cryptography.x509; print(time.process_time())"
_IMPORTS_S: Final = 0.23
"""Processor seconds of it on the machine of the bars when it does nothing else (measured, an Intel Xeon with two cores)."""


def times_slower() -> float:
    """Return how many times as long as the machine of the bars this one takes now; 1 where it is quicker. Takes a second."""
    imported = subprocess.run(
        [sys.executable, "-c", _IMPORTS], check=True, capture_output=True, text=True
    )
    return max(1.0, float(imported.stdout) / _IMPORTS_S)
