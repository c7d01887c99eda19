"""Results side by side: a table and a picture. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from capamesh.simulation.charts import Bar, Line, comparison_svg

if TYPE_CHECKING:
    from capamesh.simulation.results import Results


@dataclass(frozen=True, slots=True)
class Row:
    """One policy over all seeds. Latencies in milliseconds, of what was answered; medians of the seeds."""

    policy: str
    seeds: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_least_ms: float
    p99_most_ms: float
    p999_ms: float
    goodput_share: float
    """Means of the seeds, from here on."""
    failed_share: float
    extra_share: float
    probe_share: float
    inhibited: float
    """Inhibitions and ejections of a run."""
    ejected: float
    events_per_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The runs of one scenario, by policy and then by seed, each policy with the same seeds."""

    title: str
    results: tuple[Results, ...]

    def rows(self) -> list[Row]:
        """Return a row for each policy, in the order in which they were given."""
        return [self._row(policy, runs) for policy, runs in self._by_policy().items()]

    def svg(self) -> str:
        """Return p99 by policy, the distributions of latency, and p99 over time."""
        by_policy = self._by_policy()
        bars = [
            Bar(row.policy, row.p99_ms, row.p99_least_ms, row.p99_most_ms) for row in self.rows()
        ]
        middle = {policy: _middle(runs) for policy, runs in by_policy.items()}
        cdf = [
            Line(policy, tuple((x * 1e3, 1 - share) for x, share in run.cdf))
            for policy, run in middle.items()
        ]
        timeline = [
            Line(policy, tuple((moment.at_s, moment.p99_s * 1e3) for moment in run.timeline))
            for policy, run in middle.items()
        ]
        return comparison_svg(self.title, bars, cdf, timeline)

    def to_json(self) -> str:
        """Return all results as JSON, a list."""
        return json.dumps(
            [json.loads(one.to_json()) for one in self.results],
            sort_keys=True,
            separators=(",", ":"),
        )

    def _by_policy(self) -> dict[str, list[Results]]:
        of: dict[str, list[Results]] = {}
        for one in self.results:
            of.setdefault(one.policy, []).append(one)
        return of

    def _row(self, policy: str, runs: list[Results]) -> Row:
        def middle(value: Callable[[Results], float]) -> float:
            return median(map(value, runs))

        def mean(value: Callable[[Results], float]) -> float:
            return fmean(map(value, runs))

        p99s_ms = [run.p99_s * 1e3 for run in runs]
        return Row(
            policy=policy,
            seeds=len(runs),
            p50_ms=middle(lambda run: run.p50_s * 1e3),
            p90_ms=middle(lambda run: run.p90_s * 1e3),
            p99_ms=median(p99s_ms),
            p99_least_ms=min(p99s_ms),
            p99_most_ms=max(p99s_ms),
            p999_ms=middle(lambda run: run.p999_s * 1e3),
            goodput_share=mean(lambda run: run.goodput_share),
            failed_share=mean(lambda run: run.failed_share),
            extra_share=mean(lambda run: run.extra_share),
            probe_share=mean(lambda run: run.probe_share),
            inhibited=mean(lambda run: run.verdicts.get("inhibited", 0)),
            ejected=mean(lambda run: run.verdicts.get("ejected", 0)),
            events_per_s=mean(lambda run: run.events_per_s),
        )


def _middle(runs: list[Results]) -> Results:
    """Return the run whose p99 is in the middle."""
    return sorted(runs, key=lambda run: run.p99_s)[(len(runs) - 1) // 2]
