"""A virtual clock and what is to happen when: time jumps from one event to the next. Pure.

A router's own parts go by it as they go by an event loop: `Events` are `Timers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

from typing_extensions import override

from capamesh.router import timers
from capamesh.simulation.errors import InvariantBroken

MIN_SWEPT = 4096
"""Cancelled timers that are borne before the heap is built anew (guess: 1 MB)."""

_Event = tuple[float, int, Callable[..., object], tuple[object, ...]]


class Timer(timers.Timer):
    """An event that may be called off. Made by `Events.timer`."""

    __slots__ = ("_args", "_do", "_events")

    def __init__(self, events: Events, do: Callable[..., object], args: tuple[object, ...]) -> None:
        self._events = events
        self._do: Callable[..., object] | None = do
        self._args = args

    @override
    def __repr__(self) -> str:
        return f"Timer({'over' if self._do is None else 'pending'})"

    def __call__(self) -> None:
        """Do what it is for, unless it was called off; called once, by `Events`."""
        do, args = self._do, self._args
        self._do, self._args = None, ()
        if do is None:
            self._events.swept()
        else:
            do(*args)

    @property
    def is_pending(self) -> bool:
        """Return whether the event is still to come."""
        return self._do is not None

    @override
    def cancel(self) -> None:
        if self._do is not None:
            self._do, self._args = None, ()  # it keeps nothing that it held
            self._events.cancelled()


class Events(timers.Timers):
    """The events to come, in order of time; those of the same time come in the order in which they were put in."""

    __slots__ = ("_cancelled", "_heap", "_order", "now_s", "ran")

    def __init__(self) -> None:
        self.now_s = 0.0
        self.ran = 0
        """Events that have happened, timers that were called off included: what the heap had to do."""
        self._heap: list[_Event] = []
        self._order = 0
        self._cancelled = 0

    def __len__(self) -> int:
        """Return how many are to come; those that were called off are not."""
        return len(self._heap) - self._cancelled

    @override
    def __repr__(self) -> str:
        return f"Events({self.now_s:.6f} s, {len(self)} to come, {self.ran} over)"

    def at(self, time_s: float, do: Callable[..., object], *args: object) -> None:
        """Call `do(*args)` at `time_s`; at once, after what is due already, where that has passed."""
        self._order = order = self._order + 1
        heappush(self._heap, (max(time_s, self.now_s), order, do, args))

    def timer(self, time_s: float, do: Callable[..., object], *args: object) -> Timer:
        """Return a timer that calls `do(*args)` at `time_s`, as `at` does."""
        timer = Timer(self, do, args)
        self.at(time_s, timer)
        return timer

    def time(self) -> float:
        """Return the time, for whoever takes a clock."""
        return self.now_s

    @override
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        return self.timer(self.now_s + delay, callback)

    @override
    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        return self.timer(self.now_s, callback)

    @override
    def call_exception_handler(self, context: dict[str, Any], /) -> None:
        # an event loop logs a bug and goes on; here it is what is looked for
        raise InvariantBroken(context["message"]) from context.get("exception")

    def run_until(self, until_s: float = math.inf) -> None:
        """Let everything happen that is due by `until_s`; without it, until nothing is left.

        The clock then shows `until_s`, or the time of the last event where that is infinite.
        """
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now_s, _, do, args = heappop(heap)
            self.ran += 1
            do(*args)
        if math.isfinite(until_s):
            self.now_s = max(self.now_s, until_s)

    # told by timers

    def cancelled(self) -> None:
        """A timer that is still in the heap was called off."""
        self._cancelled += 1
        if self._cancelled > MIN_SWEPT and 2 * self._cancelled > len(self._heap):
            # in place: `run_until` goes on with this very list
            self._heap[:] = [event for event in self._heap if not _is_over(event[2])]
            heapify(self._heap)
            self._cancelled = 0

    def swept(self) -> None:
        """A timer that was called off has left the heap."""
        self._cancelled -= 1


def _is_over(do: Callable[..., object]) -> bool:
    return isinstance(do, Timer) and not do.is_pending
