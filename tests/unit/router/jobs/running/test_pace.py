"""How many calls of jobs are in flight: more while all is well, fewer when nodes refuse them or are late."""

from __future__ import annotations

from capamesh.router.jobs.running.pace import (
    BACKOFF_S,
    MOST_BACKOFF_S,
    WINDOW,
    Outcome,
    Pace,
)


def window(pace: Pace, refused: int = 0, late: int = 0, now_s: float = 0.0) -> int:
    for at in range(WINDOW):
        outcome = Outcome.OVERLOADED if at < refused else Outcome.ANSWERED
        took_s = 2.1 if refused <= at < refused + late else 2.0
        pace.record(outcome, took_s, 1.0, now_s)
    return pace.most_in_flight


def test_pace_grows_by_a_quarter_until_the_first_trouble_then_by_one() -> None:
    pace = Pace(1000)
    assert [window(pace) for _ in range(12)] == [2, 3, 4, 5, 6, 7, 9, 12, 15, 19, 23, 29]
    assert window(pace, refused=1) == 26
    assert [window(pace) for _ in range(3)] == [27, 28, 29]


def test_pace_is_lower_after_refusals_and_late_answers() -> None:
    pace = Pace(1000)
    for _ in range(12):
        window(pace)
    assert window(pace, late=WINDOW // 2 - 1) > 29  # most were in time
    before = pace.most_in_flight
    assert window(pace, late=WINDOW // 2) == int(before * 0.8)
    assert window(pace, refused=1) < before * 0.8


def test_rest_doubles_from_the_second_window_of_refusals_on() -> None:
    pace = Pace(100)
    window(pace, refused=1, now_s=0.0)
    assert pace.room(0, 0.0) == 1
    rests = []
    now_s = 0.0
    for _ in range(7):
        window(pace, refused=1, now_s=now_s)
        rest_s = next(s / 2 for s in range(1, 100) if pace.room(0, now_s + s / 2))
        rests.append(rest_s)
        now_s += rest_s
    assert rests == [BACKOFF_S, 1.0, 2.0, 4.0, 8.0, MOST_BACKOFF_S, MOST_BACKOFF_S]
    window(pace, now_s=now_s)
    window(pace, refused=1, now_s=now_s)
    assert pace.room(0, now_s) == 1
