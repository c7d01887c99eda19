from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from capamesh.router.timers import Alarms, Timer, Timers


class FakeTimer(Timer):
    """A timer that a test lets come."""

    def __init__(self, due_s: float, callback: Callable[[], object]) -> None:
        self.due_s = due_s
        self.callback = callback
        self.is_cancelled = False

    @override
    def cancel(self) -> None:
        self.is_cancelled = True


class FakeTimers(Timers):
    """Timers whose time a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.made: list[FakeTimer] = []
        self.crashes: list[str] = []

    @override
    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        self.made.append(FakeTimer(self.now_s + delay, callback))
        return self.made[-1]

    @override
    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        raise AssertionError(callback)

    @override
    def call_exception_handler(self, context: dict[str, Any], /) -> None:
        self.crashes.append(f"{context['message']}: {context['exception']}")

    @property
    def running(self) -> list[FakeTimer]:
        return [timer for timer in self.made if not timer.is_cancelled]

    def move_to(self, now_s: float) -> None:
        """Let all timers come that are due until then, each at its time."""
        while due := [timer for timer in self.running if timer.due_s <= now_s]:
            first = min(due, key=lambda timer: timer.due_s)
            first.is_cancelled = True
            self.now_s = max(self.now_s, first.due_s)
            first.callback()
        self.now_s = now_s


class Heard:
    """Alarms that note when they were called."""

    def __init__(self) -> None:
        self.timers = FakeTimers()
        self.alarms = Alarms(self.timers, lambda: self.timers.now_s)
        self.calls: list[tuple[str, float]] = []

    def alarm(self, name: str) -> Callable[[], object]:
        return lambda: self.calls.append((name, self.timers.now_s))


def test_alarms_are_called_at_their_times_by_one_timer() -> None:
    heard = Heard()
    for name, due_s in (("b", 102.0), ("a", 101.0), ("c", 103.0), ("b too", 102.0)):
        heard.alarms.set(due_s, heard.alarm(name))
        assert len(heard.timers.running) == 1
    heard.timers.move_to(110.0)
    assert heard.calls == [("a", 101.0), ("b", 102.0), ("b too", 102.0), ("c", 103.0)]
    assert not heard.timers.running
    assert repr(heard.alarms) == "Alarms(0)"


def test_crash_of_one_alarm_is_told_and_ends_no_other() -> None:
    heard = Heard()

    def crash() -> None:
        raise ValueError("mine")

    heard.alarms.set(101.0, crash)
    heard.alarms.set(101.0, heard.alarm("other"))
    heard.alarms.set(102.0, heard.alarm("later"))
    heard.timers.move_to(103.0)
    assert heard.calls == [("other", 101.0), ("later", 102.0)]
    assert heard.timers.crashes == ["an alarm has crashed: mine"]


def test_alarms_set_and_called_off_at_random_are_called_as_told() -> None:
    rng = random.Random(20261127)
    heard = Heard()
    expected: list[float] = []
    live: dict[str, tuple[float, Callable[[], object]]] = {}
    for number in range(3000):
        heard.timers.move_to(heard.timers.now_s + rng.random() / 10)
        live = {name: one for name, one in live.items() if one[0] > heard.timers.now_s}
        if live and rng.random() < 0.6:
            name = rng.choice(list(live))
            due_s, alarm = live.pop(name)
            heard.alarms.call_off(due_s, alarm)
            expected.remove(due_s)
            continue
        due_s = heard.timers.now_s + rng.choice([0.05, 1.0, 30.0]) * (1 + rng.random())
        alarm = heard.alarm(str(number))
        live[str(number)] = due_s, alarm
        expected.append(due_s)
        heard.alarms.set(due_s, alarm)
    heard.timers.move_to(10_000.0)
    assert [at_s for _, at_s in heard.calls] == sorted(expected)
    assert len(heard.alarms) == 0
