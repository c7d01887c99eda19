"""Answers that wait for a client, and messages that arrive, as the budget counts them."""

from __future__ import annotations

from capamesh.router.grpc.arriving import ArrivingMessage
from capamesh.router.grpc.unsent import UnsentAnswers
from capamesh.router.http.body_budget import BodyBudget


def budget_of(most_bytes: int, arriving_bytes: int = 2**20) -> BodyBudget:
    return BodyBudget(most_bytes, arriving_bytes, clock=lambda: 0.0)


def test_answers_are_charged_while_they_wait() -> None:
    budget = budget_of(2**26)
    unsent = UnsentAnswers(budget, lambda: None)
    for left_bytes, used_bytes in ((100, 100), (50, 100), (300, 300), (0, 0), (7, 7)):
        assert unsent.has(left_bytes)
        assert budget.used_bytes == used_bytes
    unsent.drop()
    assert budget.used_bytes == 0


def test_client_is_stuck_when_nothing_has_moved_between_two_looks() -> None:
    unsent = UnsentAnswers(budget_of(2**26), lambda: None)
    assert not unsent.is_stuck()  # nothing waits
    unsent.has(100)
    assert not unsent.is_stuck()
    unsent.has(60)
    assert not unsent.is_stuck()
    unsent.has(90)  # more waits, and none of it was sent
    assert unsent.is_stuck()
    unsent.has(0)
    unsent.has(10)
    assert not unsent.is_stuck()


def test_client_may_send_what_has_room_and_no_more() -> None:
    budget = budget_of(2**26, 2**20)
    first, taken = ArrivingMessage(budget, 2**20, lambda _: None, lambda: None), []
    second = ArrivingMessage(budget, 2**20, taken.append, lambda: None)
    assert first.begin()
    assert first.put(memoryview(bytes(2**19))) == 2**19
    first.settle()
    assert second.begin()
    assert second.put(memoryview(bytes(2**20 + 1))) == 2**20
    second.settle()
    assert (sum(taken), second.is_waiting, second.left_bytes) == (0, True, 0)
    assert second.owed_bytes == 2**20
    first.drop()
    assert (sum(taken), second.is_waiting, second.owed_bytes) == (2**20, False, 0)
    assert second.arrived()
    assert (budget.used_bytes, budget.arriving_bytes) == (2**20, 0)
    budget.let_go(2**20)
    assert budget.used_bytes == 0
