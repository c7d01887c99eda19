"""A node where people wait longer than usual has few calls of jobs; what others say of themselves is nothing to it."""

from __future__ import annotations

from capamesh.router.jobs.running.crowded import CrowdedNodes
from capamesh.router.jobs.running.nodes import Crowd

MANY = {"a": 9, "b": 9}


def calm(delay_s: float) -> Crowd:
    return Crowd(delay_s, is_calm=True)


def busy(delay_s: float) -> Crowd:
    return Crowd(delay_s, is_calm=False)


def test_node_is_crowded_when_people_wait_twice_as_long_as_without_jobs() -> None:
    nodes = CrowdedNodes()
    nodes.look("ab", {"a": calm(0.010), "b": calm(0.050)}, 0.0)
    nodes.look("ab", {"a": busy(0.019), "b": busy(0.019)}, 1.0)
    assert not nodes.is_any
    nodes.look("ab", {"a": busy(0.020), "b": busy(0.020)}, 2.0)
    assert nodes.full(MANY) == {"a"}
    nodes.look("ab", {}, 3.0)
    assert not nodes.is_any  # it has told nothing of late
