"""The state that a node's status shows."""

from __future__ import annotations

from datetime import UTC, datetime

from fleet_fakes import offer

from capamesh.node.agent.status import standing
from capamesh.protocol.membership_life import Ended

UNTIL = datetime(2026, 3, 1, 20, 30, tzinfo=UTC)


def test_drained_node_says_until_when_and_one_that_cannot_serve_says_that_first() -> None:
    ready = [offer()]
    assert standing("serving", None, ready, links=1, met=1, drained_until=None) == ("ready", "")
    assert standing("serving", None, ready, links=1, met=1, drained_until=UNTIL) == (
        "draining",
        "by the network's owner, until 2026-03-01 20:30 UTC",
    )
    assert standing("serving", None, [], links=1, met=1, drained_until=UNTIL)[0] == "waiting"
    assert standing("serving", None, ready, links=0, met=1, drained_until=UNTIL)[0] == "waiting"
    assert standing("draining", None, ready, links=1, met=1, drained_until=UNTIL) == (
        "draining",
        "",
    )
    ended = Ended("revoked", "by list 2")
    assert standing("serving", ended, ready, links=1, met=1, drained_until=UNTIL) == (
        "revoked",
        "by list 2",
    )
