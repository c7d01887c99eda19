"""Decides what runs in the background: bulk requests, behind all others, on what these leave of the cores. Pure.

A run that has begun cannot be broken off, but the system can stop the thread that runs it whenever another wants its core. So bulk
rows have threads of their own that give way to all others, people's requests find their slots as if there were no jobs, and no gap
between two of their runs is lost to a job.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.node.scheduling.pending_request import Batch

if TYPE_CHECKING:
    from capamesh.node.scheduling.in_flight import RequestsInFlight
    from capamesh.node.scheduling.plan import BatchPlan
    from capamesh.node.scheduling.slots import Slots

REST_S: Final = 600.0
"""Seconds for which nothing runs in the background once that has held up the event loop: one answer in thousands is late of it (guess)."""


class Background:
    """The background of one model. Any `now_s` is one clock's."""

    __slots__ = ("_is_there", "_requests", "_rests_until_s", "_slots")

    def __init__(self, requests: RequestsInFlight, slots: Slots, *, is_there: bool) -> None:
        """`is_there` says whether threads can give way here; a model that has no runs of one thread has no background."""
        self._requests = requests
        self._slots = slots
        self._is_there = is_there and slots.most_stream_rows > 0
        self._rests_until_s = -math.inf
        """The time until which there is none, for it was in people's way."""
        slots.has_background = self._is_there

    @override
    def __repr__(self) -> str:
        return f"Background({len(self._requests.background)} batches)"

    def take(self, plan: BatchPlan, now_s: float) -> Batch | None:
        """Return the next batch of bulk rows; None: none waits, or all threads have one."""
        slots, queue = self._slots, self._requests.queue
        free = slots.most - len(self._requests.background)
        if not slots.has_background or free <= 0 or not queue.bulk:
            return None
        calls = min(free, queue.bulk)  # the rows of one are run one part after the other
        rows = min(slots.most_stream_rows, max(1, -(-queue.bulk_rows // calls)))
        batch = Batch(queue.take_bulk(rows), 0, now_s, plan, is_stream=True)
        self._requests.begin(batch, now_s)
        batch.is_background = True
        self._requests.background.add(batch)
        return batch

    def stalled(self, now_s: float) -> None:
        """Take in that it has held up the event loop: bulk requests run in the slots of all for a while."""
        self._slots.has_background = False
        self._rests_until_s = now_s + REST_S

    def look(self, now_s: float) -> None:
        """Let bulk requests run here again, once it has rested."""
        if self._is_there and now_s >= self._rests_until_s:
            self._slots.has_background = True
