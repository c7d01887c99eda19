from __future__ import annotations

import json
from operator import add

from typing_extensions import override

from capamesh.protocol.ids import ModelName
from capamesh.router.page.history import BIN_S, History, Totals
from capamesh.router.page.history_answers import HistoryAnswers

BOUNDS_S = (0.001, 0.01)


class Counters:
    def __init__(self, bins: int = 60, most_models: int = 2) -> None:
        self.now_s = 100.0
        self.latencies: dict[ModelName, list[int]] = {}
        self.refused: dict[tuple[str, str], int] = {}
        self.history = History(
            lambda: Totals(self.latencies, self.refused, 3, 5, 4),
            bounds_s=BOUNDS_S,
            clock=lambda: self.now_s,
            bins=bins,
            most_models=most_models,
        )

    def count(self, model: str, *buckets: int) -> None:
        before = self.latencies.get(ModelName(model), [0, 0, 0])
        added = (*buckets, 0, 0, 0)
        self.latencies[ModelName(model)] = [*map(add, before, added)]

    def pass_bin(self, seconds: float = BIN_S) -> None:
        self.now_s += seconds
        self.history.sample()

    def series(self, model: str = "", bins: int = 3) -> dict[str, list[float | None]]:
        body = self.history.body(model, bins * BIN_S)
        found: dict[str, list[float | None]] = body["series"]
        return found


def test_bins_hold_what_was_counted_in_them() -> None:
    counters = Counters()
    counters.count("m", 10)
    counters.refused["m", "overloaded"] = 5
    counters.pass_bin()
    counters.count("m", 0, 20)
    counters.pass_bin()
    counters.pass_bin()
    series = counters.series()
    assert series["requests_per_s"] == [1.5, 2.0, 0.0]
    assert series["errors_per_s"] == [0.5, 0.0, 0.0]
    assert series["p50_us"] == [500.0, 5500.0, None]
    names = ("nodes", "nodes_usable", "requests_in_flight")
    assert [series[name] for name in names] == [[5] * 3, [4] * 3, [3] * 3]
    assert counters.series("m")["requests_per_s"] == [1.5, 2.0, 0.0]


def test_long_span_is_told_in_fewer_points() -> None:
    counters = Counters(bins=8640)
    counters.count("m", 0, 30)
    counters.pass_bin()
    for _ in range(11):
        counters.pass_bin()
    body = counters.history.body("", 86400)
    assert body["point_s"] == 120
    assert len(body["series"]["requests_per_s"]) == 720
    assert body["series"]["requests_per_s"][-1] == 0.25
    assert body["series"]["p99_us"][-1] == 9910.0


class Sampled(Counters):
    """A history of a model with requests in each bin, and its answers."""

    def __init__(self, most_bytes: int = 2**20) -> None:
        super().__init__()
        self.answers = HistoryAnswers(self.history, most_bytes=most_bytes)
        self.pass_bin()

    @override
    def pass_bin(self, seconds: float = BIN_S) -> None:
        self.count("m", 10)
        super().pass_bin(seconds)


def test_answer_is_made_once_until_the_history_goes_on() -> None:
    counters = Sampled()
    first = counters.answers.answer("m", 20)
    assert counters.answers.answer("m", 20) is first
    assert counters.answers.answer("m", 24.9) is first, "it is of the same bins"
    assert counters.answers.made == 1
    counters.pass_bin()
    newer = counters.answers.answer("m", 20)
    assert newer.tag != first.tag
    assert counters.answers.made == 2
    assert counters.answers.kept_bytes == len(newer.plain) + len(newer.packed)


def test_invented_models_are_answered_and_push_nothing_out() -> None:
    counters = Sampled()
    counters.answers.answer("m", 20)
    kept_bytes = counters.answers.kept_bytes
    for at in range(100):
        answer = counters.answers.answer(f"invented-{at}", 20)
        assert json.loads(answer.plain)["series"]["requests_per_s"] == [None, None]
    assert counters.answers.kept_bytes == kept_bytes
    counters.answers.answer("m", 20)
    assert counters.answers.made == 101


def test_bytes_that_are_kept_are_bounded_and_the_longest_unasked_goes_first() -> None:
    counters = Sampled(most_bytes=2**30)
    for bins in (1, 2, 3):
        counters.answers.answer("m", bins * BIN_S)
    most_bytes = counters.answers.kept_bytes
    counters = Sampled(most_bytes=most_bytes)
    for bins in (1, 2, 3, 1, 4):  # those of 2 make room
        counters.answers.answer("m", bins * BIN_S)
        assert counters.answers.kept_bytes <= most_bytes
    assert counters.answers.made == 4
    counters.answers.answer("m", BIN_S)
    assert counters.answers.made == 4
    counters.answers.answer("m", 2 * BIN_S)
    assert counters.answers.made == 5
