"""The interface to timers: parts of a router ask to be called later. Pure.

An event loop of asyncio is `Timers` as it is; a simulation has its own, in virtual time. `Alarms` shares one timer among many.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any, Final, Protocol

from mypy_extensions import mypyc_attr
from typing_extensions import override

STALE_DUES: Final = 64
"""The times of alarms that were called off which are borne beside twice those that are not (guess: a page of pointers)."""


@mypyc_attr(native_class=False)
class Timer(Protocol):
    """A call that is still to come."""

    __slots__ = ()

    def cancel(self) -> None:
        """Call it off. Nothing happens when it is over."""
        ...


@mypyc_attr(native_class=False)
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


class Alarms:
    """The alarms of many, on one timer of the loop: most are called off long before their time.

    A timer of the loop's own is made for the first alarm, or one that is due before all others, and not for each. An
    alarm is called in a turn of its own or behind others that are due; none is called before its time.
    """

    __slots__ = ("_clock", "_dues_s", "_of", "_timer", "_timer_due_s", "_timers")

    def __init__(self, timers: Timers, clock: Callable[[], float]) -> None:
        """Go by `clock`, as `timers` do."""
        self._timers = timers
        self._clock = clock
        self._of: dict[float, dict[Callable[[], object], None]] = {}
        """The alarms that are to be called, by their time."""
        self._dues_s: list[float] = []
        """A heap of the times, those of alarms that were called off included, up to a bound."""
        self._timer: Timer | None = None
        self._timer_due_s = math.inf

    @override
    def __repr__(self) -> str:
        return f"Alarms({len(self)})"

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def set(self, due_s: float, alarm: Callable[[], object]) -> None:
        """Call `alarm` at `due_s`, unless it is called off."""
        alarms = self._of.get(due_s)
        if alarms is not None:
            alarms[alarm] = None
            return
        self._of[due_s] = {alarm: None}
        heappush(self._dues_s, due_s)
        if due_s < self._timer_due_s:
            self._wake_at(due_s)

    def call_off(self, due_s: float, alarm: Callable[[], object]) -> None:
        """Do not call an alarm that was set for `due_s`. Nothing happens when it is over."""
        alarms = self._of.get(due_s)
        if alarms is None:
            return
        alarms.pop(alarm, None)
        if not alarms:
            del self._of[due_s]
            if len(self._dues_s) > STALE_DUES + 2 * len(self._of):
                self._dues_s = list(self._of)
                heapify(self._dues_s)

    def _wake_at(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due_s = due_s
        self._timer = self._timers.call_later(max(0.0, due_s - self._clock()), self._ring)

    def _ring(self) -> None:
        """Call all that is due. What they set meanwhile has its turn later, so that no two keep each other busy here."""
        self._timer, self._timer_due_s = None, math.inf
        now_s = self._clock()
        due: list[tuple[float, Callable[[], object]]] = []
        while self._dues_s and self._dues_s[0] <= now_s:
            due_s = heappop(self._dues_s)
            due += [(due_s, alarm) for alarm in self._of.get(due_s, ())]
        try:
            for due_s, alarm in due:
                alarms = self._of.get(due_s)
                if alarms is None or alarm not in alarms:
                    continue  # one before has called it off
                self.call_off(due_s, alarm)
                try:
                    alarm()
                except Exception as error:  # noqa: BLE001 - others wait for theirs
                    self._timers.call_exception_handler(
                        {"message": "an alarm has crashed", "exception": error}
                    )
        finally:
            while self._dues_s and self._dues_s[0] not in self._of:
                heappop(self._dues_s)
            if self._dues_s and self._dues_s[0] < self._timer_due_s:
                self._wake_at(self._dues_s[0])
