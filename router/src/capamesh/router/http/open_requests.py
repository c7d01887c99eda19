"""Counts the HTTP requests that are open, and those that were answered. Pure but for asyncio's events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

INFER_ROUTE: Final = "/v2/models/{model}/infer"
"""The route of inference requests; the version that a path may have is left out where they are counted."""


class OpenRequests:
    """Counts the requests between their head and their answer, so that a router can wait for the last; and all that were answered."""

    def __init__(self) -> None:
        self.count = 0
        """Counted up by whoever has the head of a request; `ended` counts it down."""
        self.is_closing = False
        """True while answers ask their clients to leave."""
        self._waiting: list[asyncio.Event] = []
        self._inferred: dict[int, int] = {}
        """The inference requests that the front has answered itself, by status."""
        self.unread: dict[int, int] = {}
        """The requests that the front has answered before all of them was here, by status."""
        self._served: dict[tuple[str, str, int], int] = {}
        """The requests that were answered by aiohttp's application, by method, route and status."""

    def ended(self) -> None:
        """Count a request down that was answered, or whose client is gone."""
        self.count -= 1
        if self.count == 0 and self._waiting:
            self._wake()

    def _wake(self) -> None:
        for each in self._waiting:
            each.set()
        self._waiting.clear()

    def inferred(self, status: int) -> None:
        """Count an inference request down that the front has answered itself."""
        statuses = self._inferred
        statuses[status] = statuses.get(status, 0) + 1
        self.count -= 1  # as `ended`: each answer comes by here
        if self.count == 0 and self._waiting:
            self._wake()

    def count_served(self, method: str, route: str, status: int) -> None:
        """Count a request that was answered by aiohttp's application; `route` is empty where there is none."""
        key = method if route else "", route, status
        self._served[key] = self._served.get(key, 0) + 1

    def answered(self) -> Iterator[tuple[tuple[str, str, str], float]]:
        """Yield how many requests were answered by method, route and status."""
        for (method, route, status), count in list(self._served.items()):
            yield (method, route, str(status)), count
        for status, count in list(self._inferred.items()):
            yield ("POST", INFER_ROUTE, str(status)), count
        for status, count in list(self.unread.items()):
            yield ("", "", str(status)), count

    async def wait_none(self) -> None:
        """Wait until no request is open."""
        if self.count:
            none = asyncio.Event()
            self._waiting.append(none)
            await none.wait()
