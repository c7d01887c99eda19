"""A node where people wait longer than usual has few calls of jobs; what others say of themselves is nothing to it."""

from __future__ import annotations

import math

import pytest

from capamesh.router.jobs.running.crowded import CALM_S, DELAY_TIMES, LEAST_DELAY_S, CrowdedNodes
from capamesh.router.jobs.running.nodes import Crowd
from capamesh.router.jobs.running.pace import CALLS_A_NODE

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


def test_node_that_was_never_calm_is_not_crowded() -> None:
    nodes = CrowdedNodes()
    nodes.look("a", {"a": busy(9.0)}, 0.0)
    assert not nodes.is_any


def test_wait_that_nobody_sees_crowds_no_node() -> None:
    nodes = CrowdedNodes()
    nodes.look("a", {"a": calm(0.0)}, 0.0)
    nodes.look("a", {"a": busy(0.9 * DELAY_TIMES * LEAST_DELAY_S)}, 1.0)
    assert not nodes.is_any
    nodes.look("a", {"a": busy(DELAY_TIMES * LEAST_DELAY_S)}, 2.0)
    assert nodes.is_any


def test_usual_delay_is_that_of_the_last_calm_minute() -> None:
    nodes = CrowdedNodes()
    nodes.look("a", {"a": calm(1.0)}, 0.0)
    for at in range(1, 601):
        nodes.look("a", {"a": calm(0.010)}, at * CALM_S / 100)
    usual_s, _ = nodes._usual["a"]
    assert usual_s == pytest.approx(0.010 + 0.99 * math.exp(-6.0))


def test_crowded_node_has_its_calls_and_is_full_then() -> None:
    nodes = CrowdedNodes()
    nodes.look("ab", {"a": calm(0.010), "b": calm(0.010)}, 0.0)
    assert nodes.room("ab", {}) == math.inf
    nodes.look("ab", {"a": busy(1.0), "b": calm(0.010)}, 1.0)
    assert nodes.full({"a": CALLS_A_NODE - 1}) == set()
    assert nodes.full({"a": CALLS_A_NODE}) == {"a"}
    assert nodes.room("ab", MANY) == math.inf
    nodes.look("ab", {"a": busy(1.0), "b": busy(1.0)}, 2.0)
    assert nodes.room("ab", {"a": CALLS_A_NODE + 5, "b": 1}) == CALLS_A_NODE - 1


def test_node_that_has_left_is_forgotten() -> None:
    nodes = CrowdedNodes()
    nodes.look("ab", {"a": calm(0.010), "b": calm(0.010)}, 0.0)
    nodes.look("a", {}, 1.0)
    nodes.look("ab", {"b": busy(1.0)}, 2.0)
    assert not nodes.is_any
    assert set(nodes._usual) == {"a"}
