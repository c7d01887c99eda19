"""Does the router hold in a simulated fleet what it promises? Runs its own code in virtual time, seeded.

    python benchmarks/simulated.py [--seeds 1 2 3] [--quick]

Four questions, each with its bar: is the default policy's tail the best of all policies (100 nodes of three speeds with
antagonists; small fleets of 3, 5 and 8); is no request lost when nodes die, freeze, fall silent, lie or fail; is what
the nodes can do used at twice the load; and is what retries and hedges add bounded everywhere. Also: do 1, 3 and 10
routers that know nothing of one another do as well. A run with the same seeds gives the same figures on any machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from machine import keep
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from capamesh.protocol.gc_tuning import freeze_loaded_objects
from capamesh.router.policies import DEFAULT_POLICY
from capamesh.simulation.comparison import Row
from capamesh.simulation.parallel import compare
from capamesh.simulation.scenario import Scenario
from capamesh.simulation.shipped import shipped_scenario

OTHERS = ("round-robin", "random", "p2c", "least-request", "peak-ewma")
BUSY, CALM = "three-speeds-90", "three-speeds-70"
SMALL = ("small-3", "small-5", "small-8")
SMALL_LOADS = (0.5, 0.7, 0.9)
FAULTS = ("kill", "freeze", "silent", "gray-errors", "gray-fast-errors", "liar", "rolling-restart")
ALL_ERRORS, ALL_ERRORS_PER_S = "all-errors", (5.0, 100.0)
"""Requests a second, few and many: what is granted by time shows where few come."""
ROUTERS = (1, 3, 10)
BUSY_RATIO = 0.5
CALM_RATIO = 1.05
GOODPUT = 0.9
EXTRA = 0.25
"""The share of extra attempts that the design allows at most."""
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """One bar: what was seen, and whether it holds."""

    what: str
    seen: float
    bar: float
    is_held: bool


def rows_of(
    scenario: Scenario, policies: Sequence[str], seeds: Sequence[int], progress: Progress
) -> dict[str, Row]:
    """Run `scenario` with each policy and seed."""
    task = progress.add_task(f"{scenario.name} at {scenario.load:g}", total=1.0)
    compared = compare(
        scenario,
        policies,
        seeds,
        lambda part: progress.update(task, completed=part),
        processes=PROCESSES,
    )
    progress.remove_task(task)
    return {row.policy: row for row in compared.rows()}


def ratio_of(rows: dict[str, Row]) -> float:
    """Return the default policy's p99 over the best of the others'."""
    return rows[DEFAULT_POLICY].p99_ms / min(
        row.p99_ms for name, row in rows.items() if name in OTHERS
    )


def measure(seeds: Sequence[int], *, is_quick: bool, console: Console) -> dict[str, Any]:
    """Run everything; return the rows and the verdicts."""
    seen: dict[str, dict[str, Row]] = {}
    verdicts: list[Verdict] = []
    policies = (DEFAULT_POLICY, *OTHERS)
    with Progress(console=console, transient=True) as progress:
        for name, bar in ((BUSY, BUSY_RATIO), (CALM, CALM_RATIO)):
            seen[name] = rows_of(shipped_scenario(name), policies, seeds, progress)
            ratio = ratio_of(seen[name])
            verdicts.append(Verdict(f"{name}: p99 / best other", ratio, bar, ratio <= bar))
        for name in SMALL:
            for load in SMALL_LOADS[1:2] if is_quick else SMALL_LOADS:
                scenario = replace(shipped_scenario(name), load=load)
                label = f"{name} at {load:g}"
                seen[label] = rows_of(scenario, policies, seeds, progress)
                ratio = ratio_of(seen[label])
                verdicts.append(
                    Verdict(f"{label}: p99 / best other", ratio, CALM_RATIO, ratio <= CALM_RATIO)
                )
        for name in FAULTS:
            for count in ROUTERS[:1] if is_quick else ROUTERS:
                label = f"{name}@{count}"
                seen[label] = rows_of(shipped_scenario(label), policies[:1], seeds, progress)
                failed = seen[label][DEFAULT_POLICY].failed_share
                verdicts.append(Verdict(f"{label}: failed share", failed, 0.0, failed == 0))
        for count in ROUTERS:
            label = f"overload-2x@{count}"
            seen[label] = rows_of(shipped_scenario(label), policies[:1], seeds, progress)
            goodput = seen[label][DEFAULT_POLICY].goodput_share
            verdicts.append(
                Verdict(f"{label}: goodput / capacity", goodput, GOODPUT, goodput >= GOODPUT)
            )
            label = f"{BUSY}@{count}"
            seen[label] = rows_of(shipped_scenario(label), policies[:1], seeds, progress)
        alone, herd = (seen[f"{BUSY}@{count}"][DEFAULT_POLICY].p99_ms for count in (1, 10))
        verdicts.append(Verdict("ten routers' p99 / one's", herd / alone, 1.5, herd / alone <= 1.5))
        for rate_per_s in ALL_ERRORS_PER_S:
            scenario = shipped_scenario(ALL_ERRORS)
            scenario = replace(scenario, load=rate_per_s / scenario.capacity_per_s)
            label = f"{ALL_ERRORS} at {rate_per_s:g}/s"
            seen[label] = rows_of(scenario, policies[:1], seeds, progress)
        label = "uniform-overload"
        seen[label] = rows_of(shipped_scenario(label), policies[:1], seeds, progress)
        ejected = seen[label][DEFAULT_POLICY].ejected
        verdicts.append(Verdict(f"{label}: ejections", ejected, 0.0, ejected == 0))
    most = max(rows[DEFAULT_POLICY].extra_share for rows in seen.values())
    verdicts.append(Verdict("extra attempts, the most of all", most, EXTRA, most <= EXTRA))
    return {"rows": seen, "verdicts": verdicts}


def show(figures: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    table = Table(title="policies in virtual time: medians of the seeds")
    for column in ("scenario", "policy", "p50", "p99", "p99.9", "goodput", "failed", "extra"):
        is_text = column in {"scenario", "policy"}
        table.add_column(column, justify="left" if is_text else "right")
    for scenario, rows in figures["rows"].items():
        for number, (policy, row) in enumerate(rows.items()):
            table.add_row(
                "" if number else scenario,
                policy,
                f"{row.p50_ms:.1f} ms",
                f"{row.p99_ms:.1f} ms",
                f"{row.p999_ms:.1f} ms",
                f"{row.goodput_share:.3f}",
                f"{row.failed_share:.4f}",
                f"{row.extra_share:.3f}",
            )
    console.print(table)
    bars = Table(title="bars")
    for column in ("what", "seen", "bar", ""):
        bars.add_column(column, justify="right" if column in {"seen", "bar"} else "left")
    for verdict in figures["verdicts"]:
        bars.add_row(
            verdict.what,
            f"{verdict.seen:.3f}",
            f"{verdict.bar:g}",
            "held" if verdict.is_held else "[red]MISSED",
        )
    console.print(bars)


def main() -> int:
    """Measure, print, keep; fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--quick", action="store_true", help="fewer loads and routers")
    options = parser.parse_args()
    console = Console()
    freeze_loaded_objects()
    figures = measure(options.seeds, is_quick=options.quick, console=console)
    show(figures, console)
    kept = {
        "seeds": options.seeds,
        "rows": {
            scenario: [
                {name: getattr(row, name) for name in Row.__slots__} for row in rows.values()
            ]
            for scenario, rows in figures["rows"].items()
        },
        "verdicts": [
            {"what": v.what, "seen": v.seen, "bar": v.bar, "is_held": v.is_held}
            for v in figures["verdicts"]
        ],
    }
    console.print(f"kept in {keep('simulated', kept)}")
    return 0 if all(verdict.is_held for verdict in figures["verdicts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
