"""Keeps one link to one peer: dials, waits until it ends, backs off, dials again. IO: asyncio."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from capamesh.protocol.channel.backoff import Backoff, RestartPolicy
from capamesh.protocol.errors import LinkLost
from capamesh.protocol.links.link import Link

REDIAL = RestartPolicy(first_s=0.05, factor=2.0, most_s=2.0, stable_after_s=10.0)
"""The waits between dials (guess: a restarted worker is back within a second, and a router that was away is to be linked two
seconds after it is back, however long it was away)."""

UNANSWERED = RestartPolicy(first_s=0.25, factor=2.0, most_s=600.0, stable_after_s=10.0)
"""The waits for an address that never answered, and whose advertiser may have made it up (guess: a wrong firewall is mended
within minutes, and then the node says something else or its advert is heard anew)."""

GIVEN_UP_AFTER: Final = 150
"""Dials in a row that failed, five minutes of them, after which an address is as one that never answered (guess)."""

Over = Callable[[bool], None]
"""The callback that is told once whether a permitted dial was answered. Again is harmless."""
Permit = Callable[[bool], Awaitable[Over]]
"""Waits until a dial is permitted, given whether the address has answered before."""


async def _always(_: bool) -> Over:
    return lambda _: None


class LinkKeeper:
    """Keeps a link up until its `run` is cancelled, which ends the link."""

    def __init__(
        self,
        dial: Callable[[], Awaitable[Link]],
        *,
        permit: Permit = _always,
        unanswered: RestartPolicy = REDIAL,
    ) -> None:
        """`permit` rations the dials; `unanswered` is the patience with an address that has not answered yet."""
        self._dial = dial
        self._permit = permit
        self._unanswered = unanswered
        self._backoff = Backoff(unanswered)
        self._failures = 0
        self._is_wanted_now = asyncio.Event()
        self._due_s = 0.0
        """The time of the next dial, on the loop's clock; in the past while it dials or the link is up."""
        self.has_answered = False
        """True if a verified peer answered there, and not too long ago."""
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
                over = await self._permit(self.has_answered)
                started_s = loop.time()
                try:
                    link = await self._dial()
                    over(True)
                    self._answered()
                    self.last_error = await link.wait_ended()
                except LinkLost as error:
                    self.last_error = error.message
                    self._failed()
                finally:
                    over(False)
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

    def _answered(self) -> None:
        self.last_error = ""
        self._failures = 0
        if not self.has_answered:
            self.has_answered = True
            self._backoff = Backoff(REDIAL)

    def _failed(self) -> None:
        self._failures += 1
        if self.has_answered and self._failures >= GIVEN_UP_AFTER:
            self.has_answered = False
            self._backoff = Backoff(self._unanswered)
