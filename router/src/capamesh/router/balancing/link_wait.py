"""Requests that wait for a link, because no node that could answer them has one. Pure.

A router that was frozen, a switch that restarts: all links are lost at once and back within a second. Nothing is
polled: a link that is up wakes all who wait, in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

MAX_WAITING = 512
"""At one router (guess: half a second of 1,000 requests a second; each keeps its body). More fail at once."""


class LinkWait:
    """All that wait for a link at one router."""

    __slots__ = ("_most", "_waiting")

    def __init__(self, *, most: int = MAX_WAITING) -> None:
        self._most = most
        self._waiting: dict[Hashable, Callable[[], None]] = {}

    def __repr__(self) -> str:
        return f"LinkWait({len(self._waiting)} waiting)"

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether nobody else may wait."""
        return len(self._waiting) >= self._most

    def add(self, waiter: Hashable, on_link: Callable[[], None]) -> None:
        """Call `on_link` once, when the next link is up. It must not raise, and may add the waiter again."""
        self._waiting[waiter] = on_link

    def remove(self, waiter: Hashable) -> None:
        """It waits no more. Does nothing when it did not."""
        self._waiting.pop(waiter, None)

    def linked(self) -> None:
        """A link is up: wake those who wait now."""
        for waiter in list(self._waiting):
            on_link = self._waiting.pop(waiter, None)  # one may remove another
            if on_link is not None:
                on_link()
