from __future__ import annotations

from typing import Any

from fleet_fakes import NullLog

from capamesh.router.supervision import LOG_EVERY_S, Supervisor
from capamesh.router.telemetry import Telemetry


def test_loop_that_crashes_at_each_turn_is_written_down_once_a_minute_and_counted_each_time() -> (
    None
):
    log, telemetry, now_s = NullLog(), Telemetry(), 100.0
    supervisor = Supervisor(telemetry, log, clock=lambda: now_s)  # type: ignore[arg-type]  # it takes every event
    done: list[str] = []

    def bug() -> Any:
        done.append("began")
        raise KeyError("m")

    for _ in range(5):
        supervisor.do("judge", bug)
    supervisor.do("reprobe", bug)
    supervisor.do("reprobe", lambda: done.append("well"))
    assert log.events == ["turn_crashed", "turn_crashed"]  # one of each loop
    now_s += LOG_EVERY_S
    supervisor.do("judge", bug)
    assert log.events == ["turn_crashed"] * 3
    assert done == ["began"] * 6 + ["well", "began"]
    text = telemetry.exposition().decode()
    assert 'capamesh_turns_crashed_total{loop="judge"} 6.0' in text
    assert 'capamesh_turns_crashed_total{loop="reprobe"} 1.0' in text
