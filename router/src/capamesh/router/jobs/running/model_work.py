"""One pinned version that jobs run at this router: its lane, and the node that is kept free for rows that may end workers. IO: none of its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.running.crowded import CrowdedNodes
from capamesh.router.jobs.running.hosted_rows import batch_rows, call_rows
from capamesh.router.jobs.running.lane import Lane

if TYPE_CHECKING:
    from capamesh.router.jobs.running.lane import Ticket
    from capamesh.router.jobs.running.nodes import Hosting, Nodes
    from capamesh.router.jobs.values import JobId, Pinned

CAREFUL_S: Final = 600.0
"""Seconds after rows are suspected to have ended a worker for which a call has one batch (guess: as long as a node counts its ends)."""
SETTLED_S: Final = 1.0
"""Seconds after a worker's end within which what its node said before may still come (guess)."""
OUTLIVED_S: Final = 8.0
"""Seconds for which a word of the node is waited for after that: it says when its worker is back (guess: a model is loaded)."""
LIFE_POLL_S: Final = 0.1
"""Seconds between two looks for it."""


class ModelWork:
    """One pinned version at work."""

    def __init__(
        self,
        pinned: Pinned,
        model: str,
        nodes: Nodes,
        most_of: Callable[[JobId], int | None],
        clock: Callable[[], float],
    ) -> None:
        """`most_of` returns the calls that a job may have in flight here; None: as many as there is room for."""
        self.pinned = pinned
        self.model = model
        self.lane = Lane()
        self._nodes = nodes
        self.most_of = most_of
        self.hosted: Hosting | None = None
        """The model as it was hosted at the last look; None: it was not."""
        self.batch_rows = 1
        """The rows of the best batch, as of then."""
        self._clock = clock
        self._is_searched = asyncio.Lock()
        self._crowded = CrowdedNodes()
        self._died_s = -math.inf
        """The last time at which rows were suspected to have ended a worker."""
        self._left = asyncio.Event()
        """The event that a call has ended."""
        self._last_at = ""
        """The node of the last trials: others come first the next time."""

    def pump(self) -> None:
        """Let calls go for which there is room."""
        self.lane.pump(self._room, self.most_of, self._clock())

    def _room(self, rows: int) -> float:
        room = self._nodes.room(self.pinned, self.model, rows)
        if self.hosted is None or not self._crowded.is_any:
            return room
        return min(room, self._crowded.room(self.hosted.nodes, self.lane.in_flight_at()))

    def full_nodes(self, not_at: Collection[str]) -> frozenset[str]:
        """Return the nodes that are to have no more calls, for people wait there; none, if there is no other node but those in `not_at`."""
        if self.hosted is None or not self._crowded.is_any:
            return frozenset()
        full = self._crowded.full(self.lane.in_flight_at())
        return full if self.hosted.nodes - full - set(not_at) else frozenset()

    def is_idle(self, now_s: float) -> bool:
        """Return whether nodes have room for a call, and none waits."""
        return not self.lane.waiting and self.lane.pace.room(self.lane.in_flight, now_s) > 0

    def look(self) -> None:
        """Take in how it is hosted and how long people's requests wait now."""
        self.hosted = hosting = self._nodes.hosting(self.pinned, self.model)
        if hosting is not None:
            self.batch_rows = batch_rows(hosting)
            self.lane.pace.take_nodes(len(hosting.nodes))
            self.lane.is_only_node = hosting.nodes == frozenset((self.lane.reserved,))
            crowds = self._nodes.crowds(self.pinned, self.model)
            self._crowded.look(hosting.nodes, crowds, self._clock())

    @property
    def call_rows(self) -> int:
        """The most rows of the next call: several best batches where rows are tiny, and no worker has ended of late.

        It is so many whoever waits: a node cuts what people would have to wait for.
        """
        hosted = self.hosted
        if hosted is None or self._clock() - self._died_s <= CAREFUL_S:
            return self.batch_rows
        return call_rows(hosted, self.lane.row_s or hosted.row_s)

    def suspect(self) -> None:
        """Take in that rows may have ended a worker: calls have one batch for a while, so that few rows are suspected next time."""
        self._died_s = self._clock()

    @asynccontextmanager
    async def kept_free(self, lost: str) -> AsyncGenerator[None]:
        """Keep a node free of other calls, for one search at a time; `free_node` says which: not `lost`, if there is another."""
        async with self._is_searched:
            self._last_at = lost
            try:
                yield
            finally:
                self.lane.reserved, self.lane.is_only_node = "", False
                self.pump()

    async def free_node(self, not_at: str = "") -> str:
        """Return the node that is kept free, once it is: that of before, but not `not_at`, if there is another. "": nobody hosts it."""
        lane = self.lane
        hosting = self._nodes.hosting(self.pinned, self.model)
        if hosting is None:
            return ""
        if lane.reserved == not_at or lane.reserved not in hosting.nodes:
            others = sorted(hosting.nodes - {not_at or self._last_at})
            lane.reserved = self._last_at = others[0] if others else min(hosting.nodes)
        lane.is_only_node = len(hosting.nodes) == 1
        while lane.at(lane.reserved):
            self._left.clear()
            await self._left.wait()
        return lane.reserved

    async def has_outlived(self, node: str, before: tuple[int, int] | None) -> bool:
        """Return whether a node's agent goes on though its worker has ended, when its newest word was `before`.

        A row can end the worker that runs it, and its agent then tells so and starts another. Who ends a whole node is not that row.
        """
        await asyncio.sleep(SETTLED_S)
        last = self._nodes.word_of(node)
        until_s = self._clock() + OUTLIVED_S
        while self._clock() < until_s:
            now = self._nodes.word_of(node)
            if before is None or last is None or now is None or now[0] != before[0]:
                return False
            if now[1] > last[1]:
                return True
            await asyncio.sleep(LIFE_POLL_S)
        return False

    def left(self, ticket: Ticket) -> None:
        """Take in that a call has ended, and let others go in its place."""
        ticket.leave()
        self._left.set()
        self.pump()
