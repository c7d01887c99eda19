"""How quick this machine is, for bars on processor time and on time that goes by with it."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Final

_MEMORY_BYTES: Final = 2**29
"""More than all processes of a test take at once."""
_IMPORTS: Final = "import time, aiohttp, numpy, cryptography.x509; print(time.process_time())"
_IMPORTS_S: Final = 0.23
"""Processor seconds of it on the machine of the bars when it does nothing else (measured, an Intel Xeon with two cores)."""

_STARTS_S: Final = 0.21
"""Seconds by the wall clock from its start to its end, there."""


def times_slower() -> float:
    """Return how many times as long as the machine of the bars this one takes now; 1 where it is quicker. Takes a second."""
    imported = subprocess.run(
        [sys.executable, "-c", _IMPORTS], check=True, capture_output=True, text=True
    )
    return max(1.0, float(imported.stdout) / _IMPORTS_S)


def times_longer() -> float:
    """Return how many times as long a process takes to start here now, by the wall clock; 1 where it is quicker.

    It says what other programs leave of the processors, and nothing of what the caller has begun and ended.
    """
    began_s = time.monotonic()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True, capture_output=True)
    return max(1.0, (time.monotonic() - began_s) / _STARTS_S)


def touch_memory() -> None:
    """Have the machine own the memory that processes will ask it for: where it is a virtual one that has yet to ask for it
    itself, the first byte of a huge page takes 50 ms of processor time (measured)."""
    code = f"bytearray(b'1') * {_MEMORY_BYTES}"
    subprocess.run([sys.executable, "-c", code], check=True)
