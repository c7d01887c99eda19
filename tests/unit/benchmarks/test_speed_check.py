"""The check that a request costs no more than before: what it compares, and what it says."""

from __future__ import annotations

from pathlib import Path

from benchmark_modules import load

check = load("speed_check")
Cost = check.Cost


def test_verdict_is_over_the_bar_only_by_more_than_the_noise_and_names_what_got_worse() -> None:
    for costs, status in (
        ((100, 100, 100), 0),
        ((100, 100, 103), 0),
        ((100, 100, 90), 0),
        ((100, 100, 103.1), 1),
        ((100, 102, 110), 1),
        ((100, 106, 108), 2),
        ((100, 106, 100), 2),
    ):
        assert check.verdict({"json": Cost(5, 5, 5), "large": Cost(*costs)}, 0.03)[0] == status
    said = check.verdict({"json": Cost(5, 5, 6), "large": Cost(5, 5, 5)}, 0.03)
    assert said == (1, "WORSE by more than 3%: json")


def test_counted_leaves_out_what_a_start_costs(tmp_path: Path) -> None:
    asked: set[tuple[Path, str, int]] = set()

    def count(checkout: Path, kind: str, number: int) -> float:
        asked.add((checkout, kind, number))
        return 1e9 + number * float(checkout.name)

    costs = check.counted([tmp_path / "7", tmp_path / "6", tmp_path / "8"], count)
    assert costs == {kind: Cost(7.0, 6.0, 8.0) for kind in ("json", "binary", "large")}
    assert len(asked) == 18
