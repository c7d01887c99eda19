from __future__ import annotations

from capamesh.protocol.ids import ModelName
from capamesh.router.page.history import BIN_S, History, Totals

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
        counts = self.latencies.setdefault(ModelName(model), [0, 0, 0])
        for at, count in enumerate(buckets):
            counts[at] += count

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
    assert (series["nodes"], series["nodes_usable"], series["requests_in_flight"]) == (
        [5] * 3,
        [4] * 3,
        [3] * 3,
    )
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
