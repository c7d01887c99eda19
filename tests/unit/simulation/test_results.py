"""Results and their pictures: quantiles, shares, JSON, what is left out, and SVG that shows what it is given."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.ids import ModelName
from capamesh.simulation.charts import Bar, Line, comparison_svg
from capamesh.simulation.events import Events
from capamesh.simulation.results import OK, Recorder, Results, quantile
from capamesh.simulation.scenario import (
    ModelSpec,
    NodeGroup,
    RequestKind,
    Scenario,
    service_profile,
)

A, B = RequestKind("a", "m"), RequestKind("b", "m")
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


@pytest.fixture
def results() -> Results:
    """Return what was recorded of one request in the warm-up, a hundred that were answered and twenty that failed."""
    events = Events()
    recorder = Recorder(SCENARIO, events)
    events.now_s = 5.0
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
    found = [quantile([1.0, 2.0, 3.0, 4.0], q) for q in (0.0, 0.25, 0.26, 0.5, 1.0)]
    assert (found, quantile([], 0.5)) == ([1, 1, 2, 2, 4], 0.0)


def test_requests_behind_the_warm_up_are_counted_and_shares_are_of_them(results: Results) -> None:
    assert (results.requests, results.answered, results.probes) == (120, 100, 1)
    assert results.failed == {"overloaded": 20}
    quantiles = (results.p50_s, results.p90_s, results.p99_s, results.p999_s)
    assert quantiles == (50 / 64, 90 / 64, 99 / 64, 100 / 64)
    assert (results.attempts, results.let_in) == (140, 120)
    assert results.node_shares == (100 / 140, 40 / 140)
    assert (results.extra_share, results.failed_share) == (pytest.approx(20 / 120),) * 2
    assert results.capacity_per_s == 4.0  # 240 in the minute that counts: fewer came
    assert results.goodput_share == 100 / 120
    assert replace(results, requests=400).goodput_share == 100 / 240
    assert results.cdf == tuple(sorted(results.cdf))
    assert results.cdf[-1] == (99 / 64, 0.99)


def test_kinds_and_moments_are_reported_apart(results: Results) -> None:
    kinds = [(k.name, k.requests, k.answered, k.p99_s) for k in results.kinds]
    assert kinds == [("a", 100, 100, 99 / 64), ("b", 20, 0, 0.0)]
    moments = [(m.at_s, m.requests, m.answered) for m in results.timeline]
    assert (len(moments), moments[:2]) == (60, [(10.0, 2, 2), (11.0, 2, 2)])
    assert moments[-1][1:] == (20, 0)


def test_json_has_all_but_how_fast_the_simulation_was(results: Results) -> None:
    fast = replace(results, events_per_s=123.0)
    assert fast.to_json() == results.to_json()
    read = json.loads(fast.to_json())
    said = (read["policy"], read["seed"], read["p99_s"], read["events"])
    assert said == ("p2c", 7, 1.546875, 1234)
    assert "events_per_s" not in read


def test_results_of_nothing_are_zeros() -> None:
    results = Recorder(SCENARIO, Events()).results("p2c", 1, 0)
    assert (results.p99_s, results.goodput_share, results.extra_share, results.cdf) == (0, 0, 0, ())


NS = "{http://www.w3.org/2000/svg}"


def test_picture_has_a_bar_and_two_lines_for_each_policy_and_may_be_of_nothing() -> None:
    svg = comparison_svg(
        "a < b",
        [Bar("one", 10.0, 9.0, 12.0), Bar("two", 20.0, 20.0, 20.0)],
        [Line("one", ((1.0, 0.5), (10.0, 0.001))), Line("two", ((2.0, 0.5), (30.0, 0.001)))],
        [Line("one", ((0.0, 1.0), (5.0, 4.0))), Line("two", ((0.0, 2.0), (5.0, 8.0)))],
    )
    root = ET.fromstring(svg)  # noqa: S314 - our own
    assert {"a < b", "100 %", "0.1 %"} <= {text.text for text in root.iter(f"{NS}text")}
    widths = [float(rect.get("width", "0")) for rect in root.iter(f"{NS}rect")]
    assert widths[1:3] == [260.0, 520.0]  # after the background: the most is as wide as can be
    lines = [line.get("points", "") for line in root.iter(f"{NS}polyline")]
    assert len(lines) == 4
    assert lines[3].split()[1].split(",")[0] == "610.0"  # the last moment is at the right edge
    nothing = comparison_svg("nothing", [], [], [])
    assert ET.fromstring(nothing).tag == f"{NS}svg"  # noqa: S314 - our own
