"""Keeps one link to one peer: dials, waits until it ends, backs off, dials again. IO: asyncio."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from capamesh.protocol.channel.backoff import Backoff, RestartPolicy
from capamesh.protocol.errors import LinkLost
from capamesh.protocol.links.link import Link

REDIAL = RestartPolicy(first_s=0.05, factor=2.0, most_s=5.0, stable_after_s=10.0)
"""Guess: a restarted worker is back within a second, and five seconds is the promise for a recovered node."""


class LinkKeeper:
    """Keeps a link up until its `run` is cancelled, which ends the link."""

    def __init__(self, dial: Callable[[], Awaitable[Link]]) -> None:
        self._dial = dial
        self._backoff = Backoff(REDIAL)
        self._is_wanted_now = asyncio.Event()
        self._due_s = 0.0
        """When it dials next, on the loop's clock; in the past while it dials or the link is up."""
        self.last_error = ""

    def due_in_s(self) -> float:
        """Return in how long it dials next; 0: it does so now, or has a link."""
        return max(0.0, self._due_s - asyncio.get_running_loop().time())

    def hurry(self) -> None:
        """Dial again now: there is news of the peer."""
        self._is_wanted_now.set()
        self._due_s = 0.0

    async def run(self) -> None:
        """Keep dialling until cancelled."""
        loop = asyncio.get_running_loop()
        link: Link | None = None
        try:
            while True:
                started_s = loop.time()
                try:
                    link = await self._dial()
                    self.last_error = ""
                    self.last_error = await link.wait_ended()
                except LinkLost as error:
                    self.last_error = error.message
                wait_s = self._backoff.failed(loop.time() - started_s, random.random())  # noqa: S311 - no secret
                self._is_wanted_now.clear()
                self._due_s = loop.time() + wait_s
                try:
                    async with asyncio.timeout(wait_s):
                        await self._is_wanted_now.wait()
                except TimeoutError:
                    pass
        finally:
            if link is not None:
                link.close("no longer wanted")
