"""Calls wait in their lane for room; one whose worker ended is told from bystanders."""

from __future__ import annotations

from job_nodes import At

from capamesh.router.jobs.running.lane import LEAST_ALLOWED_S, MOST_ALLOWED_S, Lane, Ticket
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


def test_calls_go_as_the_pace_and_the_nodes_have_room() -> None:
    lane = lane_of(3)
    tickets = asked(lane, 5)
    assert pump(lane, room=2) == 2
    assert pump(lane, room=2) == 0  # the nodes do not know of these two yet
    for ticket in tickets[:2]:
        ticket.sent(At("a"))
    assert pump(lane, room=2) == 1
    assert (lane.in_flight, lane.waiting) == (3, 2)


def test_calls_that_are_sent_again_go_first() -> None:
    lane = lane_of(1)
    (new,) = asked(lane)
    (again,) = asked(lane, is_again=True)
    pump(lane)
    assert again.sent_s == 0.0
    assert new.sent_s > 0.0


def test_job_at_its_most_lets_others_pass() -> None:
    lane = lane_of()
    asked(lane, 3, ONE)
    asked(lane, 2, TWO)
    assert pump(lane, most={ONE: 1}) == 3
    assert lane.waiting == 2


def test_ticket_leaves_once_wherever_it_is() -> None:
    lane = lane_of()
    first, second = asked(lane, 2)
    second.leave()
    assert lane.waiting == 1
    pump(lane)
    first.leave()
    first.leave()
    assert (lane.in_flight, lane.waiting, len(lane.unsent)) == (0, 0, 0)


def test_trials_alone_go_while_the_only_node_is_kept_free() -> None:
    lane = lane_of()
    asked(lane, 2)
    lane.reserved, lane.is_only_node = "a", True
    assert pump(lane) == 0
    asked(lane, is_trial=True)
    assert pump(lane) == 1
    lane.reserved, lane.is_only_node = "", False
    assert pump(lane) == 2


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


def test_calls_are_given_twice_what_they_take_within_bounds() -> None:
    lane = lane_of()
    assert lane.allowed_s(10, 0.001, 0) == LEAST_ALLOWED_S
    assert lane.allowed_s(10, 1.0, 0) == 40.0  # behind another one
    assert lane.allowed_s(10, 1.0, 2) == 160.0
    assert lane.allowed_s(10, 1.0, 60) == MOST_ALLOWED_S
    lane.answered(10, 30.0, 0.0, 30.0, 0.0)
    assert lane.allowed_s(10, 0.001, 0) == 60.0  # it takes longer than it is said to


def test_pace_falls_when_calls_queue_for_longer_than_they_run() -> None:
    lane = lane_of(64)
    lane.pace.take_nodes(8)
    for at in range(8):
        lane.answered(8, 0.012, 0.001, 0.01, float(at))
    assert lane.pace.most_in_flight == 64
    for at in range(8):
        lane.answered(8, 0.032, 0.021, 0.01, float(at))
    assert lane.pace.most_in_flight == int(64 * 0.8)


def test_calls_are_counted_at_the_nodes_that_have_them() -> None:
    lane = lane_of()
    tickets = asked(lane, 4)
    pump(lane)
    for ticket, node in zip(tickets, "aab", strict=False):
        ticket.sent(At(node))
    assert lane.in_flight_at() == {"a": 2, "b": 1}  # the last was not sent yet
    tickets[0].leave()
    assert lane.in_flight_at() == {"a": 1, "b": 1}
