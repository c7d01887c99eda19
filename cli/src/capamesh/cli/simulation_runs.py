"""Runs simulations for `capamesh sim`, and shows what came of them. Reads scenarios, writes pictures, prints."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from capamesh.cli.printing import (
    count_text,
    print_fields,
    print_json,
    print_table,
    require_suffix,
    time_text,
    write_file,
)
from capamesh.cli.progress import parts
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.private_files import reason_of
from capamesh.simulation.comparison import Comparison, Row
from capamesh.simulation.parallel import compare, run_scenario
from capamesh.simulation.scenario_file import load_scenario
from capamesh.simulation.shipped import shipped_names, shipped_scenario

if TYPE_CHECKING:
    from capamesh.simulation.results import FaultResults, Results
    from capamesh.simulation.scenario import Scenario

WARM_UP = 0.1
"""The part of a time chosen by hand that is warm-up (guess; scenarios have about as much)."""
_SHOWN_VERDICTS = 6


def list_scenarios(*, as_json: bool) -> None:
    """Print the scenarios that come with the project."""
    found = [shipped_scenario(name) for name in shipped_names()]
    if as_json:
        print_json(
            [
                {
                    "name": each.name,
                    "title": each.title,
                    "nodes": each.node_count,
                    "routers": each.routers,
                    "load": each.load,
                    "duration_s": each.duration_s,
                    "warm_up_s": each.warm_up_s,
                    "requests": round(_expected(each)),
                }
                for each in found
            ]
        )
        return
    print_table(
        ("SCENARIO", "NODES", "LOAD", "WARM-UP", "COUNTED", "REQUESTS", "WHAT"),
        [
            (
                each.name,
                each.node_count,
                f"{each.load:.0%}",
                f"{each.warm_up_s:g} s",
                f"{each.duration_s - each.warm_up_s:g} s",
                f"{_expected(each):,.0f}",
                each.title,
            )
            for each in found
        ],
    )


def run_one(
    name: str, policy: str, seed: int, *, seconds: float | None, plot: Path | None, as_json: bool
) -> None:
    """Run the scenario `name` once and print what came of it."""
    if plot is not None:
        require_suffix(plot, ".svg", "--plot")
    scenario = _scenario(name, seconds)
    with parts(f"{scenario.name} with {policy}") as progress:
        results = run_scenario(scenario, policy=policy, seed=seed, progress=progress)
    if plot is not None:
        write_file(plot, Comparison(scenario.title, (results,)).svg())
    if as_json:
        print_json(json.loads(results.to_json()))
        return
    print_fields(_fields(scenario, results))
    if len(results.kinds) > 1:
        print()
        print_table(
            ("REQUESTS OF KIND", "COUNT", "ANSWERED", "P50", "P99"),
            [
                (
                    kind.name,
                    kind.requests,
                    _share(kind.answered / kind.requests if kind.requests else 0.0),
                    time_text(kind.p50_s),
                    time_text(kind.p99_s),
                )
                for kind in results.kinds
            ],
        )


def compare_policies(
    name: str,
    policies: Sequence[str],
    seeds: Sequence[int],
    *,
    processes: int,
    seconds: float | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Run the scenario `name` with each policy and seed, `processes` (0: as many as fit) at a time; print a table."""
    if plot is not None:
        require_suffix(plot, ".svg", "--plot")
    scenario = _scenario(name, seconds)
    with parts(f"{scenario.name}, {len(policies) * len(seeds)} runs") as progress:
        found = compare(
            scenario, policies, seeds, progress, processes=processes or os.cpu_count() or 1
        )
    if plot is not None:
        write_file(plot, found.svg())
    if as_json:
        print_json(json.loads(found.to_json()))
        return
    print(found.title)
    print()
    rows = found.rows()
    best_ms = min(row.p99_ms for row in rows)
    print_table(
        (
            "POLICY", "P50", "P90", "P99", "P99 OF SEEDS", "P99.9", "GOODPUT", "FAILED", "EXTRA",
            "PROBES", "INHIBITED", "EJECTED",
        ),
        [_row(row, is_best=row.p99_ms == best_ms) for row in rows],
    )  # fmt: skip


def _scenario(name: str, seconds: float | None) -> Scenario:
    """Return a scenario that comes with the project, or the one in a file; cut or stretched to `seconds`."""
    file = Path(name)
    is_file = file.is_file() and name not in shipped_names()
    if is_file or name.endswith(".toml") or os.sep in name:
        try:
            text = file.read_text("utf-8")
        except (OSError, ValueError) as exc:
            raise ConfigError(f"cannot read the scenario {name}: {reason_of(exc)}") from exc
        scenario = load_scenario(text, file.stem)
    else:
        scenario = shipped_scenario(name)
    if seconds is None:
        return scenario
    first_s = min((fault.at_s for fault in scenario.faults), default=0.0)
    if seconds <= first_s:
        raise ConfigError(
            f"--seconds {seconds:g}: nothing of what goes wrong in {scenario.name} happens in that time: its first fault is "
            f"at {first_s:g} s; give more, of its {scenario.duration_s:g} s"
        )
    return scenario.shortened(seconds, WARM_UP * seconds)


def fault_text(fault: FaultResults) -> str:
    """Return what a fault was and whether it happened."""
    lasts = f" for {fault.for_s:g} s" if math.isfinite(fault.for_s) else ""
    what = f"{fault.kind} at {fault.at_s:g} s{lasts}"
    if fault.planned > 1:
        what += f", {fault.planned} times"
    if not fault.begun:
        return f"{what}: did not happen, the time ended before"
    if fault.begun < fault.planned:
        what += f": {fault.begun} of them happened, before the time ended"
    elif math.isfinite(fault.for_s) and fault.ended < fault.begun:
        what += f": {fault.ended} of {fault.begun} were over before the time ended"
    return what


def _fields(scenario: Scenario, results: Results) -> dict[str, object]:
    verdicts = sorted(results.verdicts.items(), key=lambda item: -item[1])
    shares = sorted(results.node_shares)
    return {
        "scenario": f"{results.scenario}: {scenario.title}",
        "policy": f"{results.policy}, seed {results.seed}",
        "fleet": f"{count_text(results.nodes, 'node')}, {count_text(results.routers, 'router')}, {results.capacity_per_s:,.0f} requests/s at most",
        "requests": f"{results.requests:,} in {results.counted_s:g} s of virtual time, after "
        f"{scenario.warm_up_s:g} s of warm-up that are not counted",
        **({"faults": [fault_text(fault) for fault in results.faults]} if results.faults else {}),
        "answered": f"{results.answered:,} ({_share(1 - results.failed_share)}), "
        f"{_share(results.goodput_share)} of what could be",
        "failed": {code: f"{count:,}" for code, count in results.failed.items()},
        "p50, p90": f"{time_text(results.p50_s)}, {time_text(results.p90_s)}",
        "p99, p99.9": f"{time_text(results.p99_s)}, {time_text(results.p999_s)}",
        "extra attempts": f"{_share(results.extra_share)} (retries, hedges, refusals)",
        "probes": f"{results.probe_share:.2f} a request",
        "a node's share": f"{shares[0]:.2%} to {shares[-1]:.2%} of the attempts" if shares else "-",
        "verdicts": dict(verdicts[:_SHOWN_VERDICTS]),
        "simulated": f"{results.events:,} events, {results.events_per_s:,.0f} a second",
    }


def _row(row: Row, *, is_best: bool) -> tuple[object, ...]:
    return (
        Text(row.policy, "bold" if is_best else ""),
        _ms(row.p50_ms),
        _ms(row.p90_ms),
        Text(_ms(row.p99_ms), "bold" if is_best else ""),
        f"{_ms(row.p99_least_ms)} to {_ms(row.p99_most_ms)}" if row.seeds > 1 else "-",
        _ms(row.p999_ms),
        _share(row.goodput_share),
        _share(row.failed_share),
        _share(row.extra_share),
        f"{row.probe_share:.2f}",
        mean_text(row.inhibited),
        mean_text(row.ejected),
    )


def _expected(scenario: Scenario) -> float:
    """Return how many requests a run counts, on average of all seeds."""
    return scenario.arrivals_per_s * (scenario.duration_s - scenario.warm_up_s)


def mean_text(value: float) -> str:
    """Return a mean of counts: whole where it is, else with one digit after the point."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _ms(value: float) -> str:
    return time_text(value / 1e3)


def _share(value: float) -> str:
    return f"{value:.2%}"
