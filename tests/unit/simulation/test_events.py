"""A virtual clock: order, ties, timers that are called off."""

from __future__ import annotations

import gc
import weakref

import pytest

from capamesh.simulation import events as events_module
from capamesh.simulation.errors import InvariantBroken
from capamesh.simulation.events import Events


def test_events_happen_in_the_order_of_their_times_and_ties_in_the_order_they_were_put_in() -> None:
    events, seen = Events(), []
    for name, at_s in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        events.at(at_s, lambda name=name: seen.append((name, events.now_s)))
    events.run_until(1.5)
    assert (seen, events.now_s, len(events)) == ([("first", 1.0), ("second", 1.0)], 1.5, 1)
    events.at(1.0, lambda: seen.append(("overdue", events.now_s)))
    events.run_until()
    assert seen[2:] == [("overdue", 1.5), ("late", 2.0)]
    assert (events.ran, len(events), events.now_s) == (4, 0, 2.0)


def test_timer_that_was_called_off_does_nothing_and_holds_nothing() -> None:
    class Held: ...

    events, seen, held = Events(), list[str](), Held()
    watch = weakref.ref(held)
    timer = events.timer(1.0, print, held)
    other = events.timer(2.0, seen.append, "yes")
    for _ in range(2):
        timer.cancel()
    assert (len(events), timer.is_pending) == (1, False)
    del held
    gc.collect()
    assert watch() is None
    events.run_until()
    other.cancel()  # after it happened
    assert (seen, len(events)) == (["yes"], 0)


def test_heap_is_swept_when_most_of_it_was_called_off_even_from_within() -> None:
    events, seen = Events(), []
    timers = [events.timer(2.0, seen.append, n) for n in range(3 * events_module.MIN_SWEPT)]

    def cancel_all_but_the_first() -> None:
        for timer in timers[1:]:
            timer.cancel()
        assert len(events) == 1
        assert len(events._heap) < events_module.MIN_SWEPT + 2

    events.at(1.0, cancel_all_but_the_first)
    events.run_until()
    assert (seen, len(events)) == ([0], 0)


# as a router's own parts use it


def test_calls_come_later_or_soon_by_the_clock_that_they_are_asked_at_or_are_called_off() -> None:
    events, seen = Events(), []
    events.at(1.0, lambda: events.call_later(0.5, lambda: seen.append(("later", events.time()))))
    events.at(1.0, lambda: events.call_soon(lambda: seen.append(("soon", events.time()))))
    events.at(1.0, lambda: seen.append(("in turn", events.time())))
    events.call_later(1.0, lambda: seen.append(("called off", 0.0))).cancel()
    events.call_soon(lambda: seen.append(("called off", 0.0))).cancel()
    events.run_until()
    assert seen == [("in turn", 1.0), ("soon", 1.0), ("later", 1.5)]


def test_bug_that_an_event_loop_would_log_ends_the_simulation() -> None:
    bug = ValueError("a bug")
    with pytest.raises(InvariantBroken, match="a request has crashed") as broken:
        Events().call_exception_handler({"message": "a request has crashed", "exception": bug})
    assert broken.value.__cause__ is bug
