"""Requests that wait for a link, because no node that could answer them has one. Pure.

A router that was frozen, a switch that restarts, workers that were all killed: all links are lost at once and back
within seconds. Nothing is polled: a link that is up wakes all who wait, in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from typing_extensions import override

MAX_WAITING = 512
"""The most requests that wait at one router (guess: half a second of 1,000 requests a second). Further ones fail at once."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Their bodies together, which stay in memory meanwhile (guess: a sixteenth of a small router's memory); one that is
larger may wait alone."""


class LinkWait:
    """All that wait for a link at one router."""

    __slots__ = ("_bytes", "_is_news", "_is_waking", "_most", "_most_bytes", "_waiting")

    def __init__(self, *, most: int = MAX_WAITING, most_bytes: int = MAX_WAITING_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._is_waking = False
        self._is_news = False
        self._waiting: dict[Hashable, tuple[Callable[[], None], int]] = {}

    @override
    def __repr__(self) -> str:
        return f"LinkWait({len(self._waiting)} waiting, {self._bytes} bytes)"

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, size_bytes: int) -> bool:
        """Return whether one more request, of that size, may wait."""
        if not self._waiting:
            return True
        return len(self._waiting) < self._most and self._bytes + size_bytes <= self._most_bytes

    def add(self, waiter: Hashable, on_link: Callable[[], None], size_bytes: int = 0) -> None:
        """Call `on_link` once, when the next link is up. It must not raise, and may add the waiter again."""
        self.remove(waiter)
        self._waiting[waiter] = on_link, size_bytes
        self._bytes += size_bytes

    def remove(self, waiter: Hashable) -> None:
        """Let a request wait no more; do nothing if it did not."""
        self._bytes -= self._waiting.pop(waiter, (None, 0))[1]

    def linked(self) -> None:
        """A link is up: wake those who wait now.

        What one that is woken does may be news for the others: they are woken once more when all have been, for if
        each woke the rest in its turn, the calls would nest as deep as there are many.
        """
        self._is_news = True
        if self._is_waking:
            return
        self._is_waking = True
        try:
            while self._is_news:
                self._is_news = False
                self._wake()
        finally:
            self._is_waking = False

    def _wake(self) -> None:
        for waiter in list(self._waiting):
            known = self._waiting.pop(waiter, None)  # one may remove another
            if known is not None:
                self._bytes -= known[1]
                known[0]()
