"""Results: quantiles, shares, JSON, and what is left out."""

from __future__ import annotations

import json
from dataclasses import replace

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.ids import ModelName
from capamesh.simulation.events import Events
from capamesh.simulation.results import OK, Recorder, Results, quantile
from capamesh.simulation.scenario import (
    ModelSpec,
    NodeGroup,
    RequestKind,
    Scenario,
    service_profile,
)

A = RequestKind("a", "m")
B = RequestKind("b", "m")
SCENARIO = Scenario(
    name="s",
    title="S",
    duration_s=70.0,
    load=0.5,
    nodes=(NodeGroup("n", 2),),
    models=(ModelSpec("m", service_profile(((1, 0.5),))),),
    requests=(A, B),
    warm_up_s=10.0,
)


def recorded() -> Results:
    events = Events()
    recorder = Recorder(SCENARIO, events)
    events.now_s = 5.0  # in the warm-up
    recorder.came(A, 5.0)
    recorder.sent(0)
    recorder.sent(1)
    recorder.attempted_again(ModelName("m"))
    recorder.probed()
    recorder.ended(A, 5.0, OK, 99.0)
    for number in range(100):
        events.now_s = at_s = 10.0 + number / 2
        recorder.came(A, at_s)
        recorder.sent(0)
        recorder.ended(A, at_s, OK, at_s + (number + 1) / 64)
    recorder.probed()
    events.now_s = 69.5
    for _ in range(20):
        recorder.came(B, 69.5)
        recorder.sent(1)
        recorder.attempt_failed(ModelName("m"), Overloaded("full"))
        recorder.sent(1)
        recorder.attempted_again(ModelName("m"))
        recorder.ended(B, 69.5, "overloaded", 69.6)
    recorder.verdict("ejected")
    assert recorder.open == 0
    return recorder.results("p2c", 7, 1234)


def test_quantile_is_one_of_the_values() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], q) for q in (0.0, 0.25, 0.26, 0.5, 1.0)] == [
        1,
        1,
        2,
        2,
        4,
    ]
    assert quantile([], 0.5) == 0.0


def test_requests_of_the_warm_up_are_not_counted() -> None:
    results = recorded()
    assert (results.requests, results.answered, results.probes) == (120, 100, 1)
    assert results.failed == {"overloaded": 20}
    assert (results.p50_s, results.p90_s, results.p99_s, results.p999_s) == (
        50 / 64,
        90 / 64,
        99 / 64,
        100 / 64,
    )


def test_shares_are_of_the_requests_and_goodput_is_of_what_was_possible() -> None:
    results = recorded()
    assert (results.attempts, results.let_in) == (140, 120)
    assert results.node_shares == (100 / 140, 40 / 140)
    assert round(results.extra_share, 9) == round(20 / 120, 9)
    assert round(results.failed_share, 9) == round(20 / 120, 9)
    assert results.capacity_per_s == 4.0  # 240 in the minute that counts: fewer came
    assert results.goodput_share == 100 / 120
    assert replace(results, requests=400).goodput_share == 100 / 240


def test_kinds_and_moments_are_reported_apart() -> None:
    results = recorded()
    assert [(k.name, k.requests, k.answered, k.p99_s) for k in results.kinds] == [
        ("a", 100, 100, 99 / 64),
        ("b", 20, 0, 0.0),
    ]
    assert len(results.timeline) == 60
    assert [(m.at_s, m.requests, m.answered) for m in results.timeline[:2]] == [
        (10.0, 2, 2),
        (11.0, 2, 2),
    ]
    assert (results.timeline[-1].requests, results.timeline[-1].answered) == (20, 0)


def test_distribution_rises_to_the_slowest() -> None:
    cdf = recorded().cdf
    assert cdf == tuple(sorted(cdf))
    assert cdf[-1] == (99 / 64, 0.99)


def test_json_has_all_but_how_fast_the_simulation_was() -> None:
    results = recorded()
    fast = replace(results, events_per_s=123.0)
    assert fast.to_json() == results.to_json()
    read = json.loads(fast.to_json())
    assert (read["policy"], read["seed"], read["p99_s"], read["events"]) == (
        "p2c",
        7,
        1.546875,
        1234,
    )
    assert "events_per_s" not in read


def test_results_of_nothing_are_zeros() -> None:
    results = Recorder(SCENARIO, Events()).results("p2c", 1, 0)
    assert (results.p99_s, results.goodput_share, results.extra_share, results.cdf) == (0, 0, 0, ())
