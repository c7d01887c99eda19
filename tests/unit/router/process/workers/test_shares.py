"""The part of a router's limits that each worker has."""

from __future__ import annotations

from pathlib import Path

from capamesh.router.process.workers.shares import worker_settings
from capamesh.router.settings import RouterSettings


def test_given_limits_are_divided_and_rounded_up() -> None:
    settings = RouterSettings(
        Path(),
        workers=3,
        body_budget_bytes=100,
        answer_budget_bytes=50,
        max_connections=10,
        max_connections_per_address=4,
    )
    mine = worker_settings(settings, memory_bytes=10**9, link_port=4102)
    assert (mine.body_budget_bytes, mine.answer_budget_bytes) == (34, 17)
    assert (mine.max_connections, mine.max_connections_per_address) == (4, 2)
    assert mine.link_port == 4102


def test_missing_limits_are_shares_of_the_machine() -> None:
    mine = worker_settings(RouterSettings(Path(), workers=2), memory_bytes=1600, link_port=0)
    assert (mine.body_budget_bytes, mine.answer_budget_bytes) == (100, 100)
    assert (mine.max_connections, mine.max_connections_per_address) == (2048, 1024)
