"""Work that is done in short steps, so that an event loop can do something else between two of them. Pure.

A step is what a generator does up to its next `yield`: some 2 ms at most, whatever a stranger sent (measured on two
cores of a cloud machine). Who has no loop to keep responsive calls `run_through`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

_T = TypeVar("_T")

Steps: TypeAlias = Generator[None, None, _T]
"""A generator that yields between its steps and returns the result."""


def run_through(steps: Steps[_T]) -> _T:
    """Return the result of all `steps`, done at once."""
    try:
        while True:
            next(steps)
    except StopIteration as done:
        result: _T = done.value
        return result
