"""The interface to timers: parts of a router ask to be called later. Pure.

An event loop of asyncio is `Timers` as it is; a simulation has its own, in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Timer(Protocol):
    """A call that is still to come."""

    __slots__ = ()

    def cancel(self) -> None:
        """Call it off. Nothing happens when it is over."""
        ...


class Timers(Protocol):
    """A source of timers: it calls functions later, each in a turn of its own."""

    __slots__ = ()

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call `callback` once `delay` seconds have passed."""
        ...

    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        """Call `callback` when the present turn is over."""
        ...

    def call_exception_handler(self, context: dict[str, Any], /) -> None:
        """Take a bug that has ended one call and must not end others: its "message", and the "exception"."""
        ...
