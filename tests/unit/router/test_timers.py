from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from capamesh.router.timers import Alarms


class Heard:
    """Alarms that note when they were called, in virtual time."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.alarms = Alarms(self.loop, self.loop.time)
        self.calls: list[tuple[str, float]] = []

    def alarm(self, name: str) -> Callable[[], object]:
        return lambda: self.calls.append((name, self.loop.time()))

    @property
    def timers(self) -> int:
        return sum(not each.cancelled() for each in self.loop._scheduled)  # type: ignore[attr-defined]


async def test_alarms_are_called_at_their_times_by_one_timer() -> None:
    heard = Heard()
    for name, due_s in (("b", 2.0), ("a", 1.0), ("c", 3.0), ("b too", 2.0)):
        heard.alarms.set(due_s, heard.alarm(name))
        assert heard.timers == 1
    await asyncio.sleep(10.0)
    assert heard.calls == [("a", 1.0), ("b", 2.0), ("b too", 2.0), ("c", 3.0)]
    assert (heard.timers, repr(heard.alarms)) == (0, "Alarms(0)")


async def test_crash_of_one_alarm_is_told_and_ends_no_other() -> None:
    heard, crashes = Heard(), list[str]()
    heard.loop.set_exception_handler(
        lambda _, what: crashes.append(f"{what['message']}: {what['exception']}")
    )

    def crash() -> None:
        raise ValueError("mine")

    for due_s, alarm in ((1.0, crash), (1.0, heard.alarm("other")), (2.0, heard.alarm("later"))):
        heard.alarms.set(due_s, alarm)
    await asyncio.sleep(3.0)
    assert heard.calls == [("other", 1.0), ("later", 2.0)]
    assert crashes == ["an alarm has crashed: mine"]


async def test_alarms_set_and_called_off_at_random_are_called_as_told() -> None:
    rng, heard = random.Random(20261127), Heard()
    expected: list[float] = []
    live: dict[str, tuple[float, Callable[[], object]]] = {}
    for number in range(3000):
        await asyncio.sleep(rng.random() / 10)
        live = {name: one for name, one in live.items() if one[0] > heard.loop.time()}
        if live and rng.random() < 0.6:
            due_s, alarm = live.pop(rng.choice(list(live)))
            heard.alarms.call_off(due_s, alarm)
            expected.remove(due_s)
            continue
        due_s = heard.loop.time() + rng.choice([0.05, 1.0, 30.0]) * (1 + rng.random())
        alarm = heard.alarm(str(number))
        live[str(number)] = due_s, alarm
        expected.append(due_s)
        heard.alarms.set(due_s, alarm)
    await asyncio.sleep(1000.0)
    assert [at_s for _, at_s in heard.calls] == pytest.approx(sorted(expected))
    assert len(heard.alarms) == 0
