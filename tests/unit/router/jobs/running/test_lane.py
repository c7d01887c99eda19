"""Calls wait in their lane for room; one whose worker ended is told from bystanders."""

from __future__ import annotations

from job_nodes import At

from capamesh.router.jobs.running.lane import Lane, Ticket
from capamesh.router.jobs.running.pace import Pace
from capamesh.router.jobs.values import JobId

ONE, TWO = JobId("one"), JobId("two")


def lane_of(pace: int = 100) -> Lane:
    lane = Lane(Pace(pace))
    lane.pace.take_nodes(pace)
    return lane


def asked(lane: Lane, count: int = 1, job: JobId = ONE, **words: bool) -> list[Ticket]:
    return [lane.ask(job, 8, lambda: None, **words) for _ in range(count)]


def pump(
    lane: Lane, room: int = 1000, most: dict[JobId, int] | None = None, now_s: float = 0.0
) -> int:
    before = lane.in_flight
    lane.pump(lambda _rows: room, (most or {}).get, now_s)
    return lane.in_flight - before


def test_first_call_at_a_worker_that_ended_is_suspected_and_the_others_are_not() -> None:
    lane = lane_of()
    tickets = asked(lane, 4)
    for at, ticket in enumerate(tickets):
        pump(lane, room=1 + len(lane.unsent), now_s=float(at))
        ticket.sent(At("a" if at != 3 else "b"))
    # whatever the order in which they hear of it
    order = [tickets[1], tickets[0], tickets[2]]
    found = []
    for ticket in order:
        found.append(lane.is_suspect(ticket))
        ticket.leave()
    assert found == [False, True, False]
    assert lane.is_suspect(tickets[3])  # at another worker


def test_pace_falls_when_calls_queue_for_longer_than_they_run() -> None:
    lane = lane_of(64)
    lane.pace.take_nodes(8)
    for at in range(8):
        lane.answered(8, 0.012, 0.001, 0.01, float(at))
    assert lane.pace.most_in_flight == 64
    for at in range(8):
        lane.answered(8, 0.032, 0.021, 0.01, float(at))
    assert lane.pace.most_in_flight == int(64 * 0.8)
