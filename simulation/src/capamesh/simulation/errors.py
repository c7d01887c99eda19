"""The errors that are raised when a simulation shows a bug. Pure."""

from __future__ import annotations


class InvariantBroken(RuntimeError):
    """The code that was simulated, or the simulator, has a bug."""
