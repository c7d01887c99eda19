"""What becomes of requests that wait for a model whose repository sets priorities and timeouts."""

from __future__ import annotations

import pytest
from engine_desk import Desk

from capamesh.node.repository.rules import QueuePolicy, QueueRules, Rules
from capamesh.protocol.errors import Overloaded
from capamesh.protocol.links.calls import DEFAULT_PRIORITY

REJECT = Rules(queue=QueueRules(QueuePolicy(timeout_us=50_000)))
DELAY = Rules(queue=QueueRules(QueuePolicy(timeout_us=50_000, is_delaying=True)))


def test_request_that_has_waited_its_time_is_refused_though_it_brought_no_deadline() -> None:
    desk = Desk(batch_rows=1, rules=REJECT)
    desk.submit()
    running = desk.taken()
    desk.submit()
    assert desk.batcher.next_event_s() == 0.05
    desk.now_s = 0.049
    desk.batcher.expire(desk.now_s)
    assert desk.outcomes() == []
    desk.now_s = 0.05
    desk.batcher.expire(desk.now_s)
    assert desk.outcomes() == ["deadline_exceeded"]
    _, error = desk.answers[0]
    assert "it has waited 50 ms, as long as this model's configuration allows" in str(error)
    desk.finish(running)
    assert desk.outcomes() == ["deadline_exceeded", "ok"]  # what runs has waited no longer


def test_batch_that_stands_ready_behind_a_run_waits_still() -> None:
    for rules, outcome in ((REJECT, ["deadline_exceeded"]), (DELAY, [])):
        desk = Desk(batch_rows=1, rules=rules)
        desk.submit()
        desk.taken()
        desk.submit()
        ahead = desk.batcher.take(desk.now_s, is_ahead=True)
        assert ahead is not None
        desk.now_s = 0.05
        desk.batcher.expire(desk.now_s)
        assert desk.outcomes() == outcome


def test_delayed_requests_go_behind_all_others_of_their_priority() -> None:
    desk = Desk(batch_rows=1, rules=DELAY)
    desk.submit(priority=3)
    running = desk.taken()
    late = [desk.submit(priority=5) for _ in range(2)]
    desk.now_s = 0.05
    desk.batcher.expire(desk.now_s)
    assert desk.outcomes() == []
    young = desk.submit(priority=5)
    lower = desk.submit(priority=6)
    desk.finish(running, run_s=0.01)
    order = []
    for _ in range(4):
        batch = desk.taken()
        order += batch.requests
        desk.finish(batch, run_s=0.001)
    assert order == [young, *late, lower]
    assert desk.outcomes() == ["ok"] * 5


def test_priority_that_the_model_does_not_know_becomes_its_default() -> None:
    levels = Rules(queue=QueueRules(levels=3, default_level=2))
    desk = Desk(rules=levels)
    seen = [desk.submit(priority=one).priority for one in (1, 3, 4, 0, DEFAULT_PRIORITY)]
    assert seen == [1, 3, 2, 2, 2]


def test_each_priority_has_its_own_policy_and_places() -> None:
    first = QueuePolicy(timeout_us=1000, max_queue=2)
    rules = Rules(queue=QueueRules(QueuePolicy(max_queue=1), 2, 2, ((1, first),)))
    desk = Desk(batch_rows=1, rules=rules)
    desk.submit()
    desk.taken()
    desk.submit(priority=2)
    with pytest.raises(Overloaded, match="1 requests of priority 2 wait at this model"):
        desk.submit(priority=2)
    desk.submit(priority=1)
    desk.submit(priority=1)
    with pytest.raises(Overloaded, match="2 requests of priority 1 wait at this model"):
        desk.submit(priority=1)
    desk.now_s = 0.001
    desk.batcher.expire(desk.now_s)
    assert desk.outcomes() == ["deadline_exceeded"] * 2  # those of priority 1 alone
