"""How soon a thread that computes leaves the interpreter to the event loop. IO: a setting of the process."""

from __future__ import annotations

import sys
from typing import Final

SWITCH_S: Final = 0.0005
"""Seconds after which a thread of Python leaves the interpreter to one that waits for it. Python's own 5 ms are what each wake-up of the loop
waits while a thread writes the results of a job (measured: `benchmarks/thread_turns.py`)."""


def let_the_loop_in() -> None:
    """Have threads of this process leave the interpreter soon to its event loop."""
    sys.setswitchinterval(SWITCH_S)
