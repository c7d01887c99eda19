"""Runs simulations: times them, and runs several at once in processes of their own. IO: a clock, processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.gc_tuning import freeze_loaded_objects
from capamesh.router.policies import POLICIES
from capamesh.simulation.comparison import Comparison
from capamesh.simulation.run import simulate

if TYPE_CHECKING:
    from capamesh.simulation.results import Results
    from capamesh.simulation.scenario import Scenario

Progress = Callable[[float], None]
"""Is told the part that is done, from 0 to 1."""


def run_scenario(
    scenario: Scenario, *, policy: str, seed: int, progress: Progress | None = None
) -> Results:
    """Return what comes of `scenario` with `policy`, and how fast the simulation was.

    Raises `ConfigError` for an unknown policy, `InvariantBroken` when the simulated code has a bug.
    """
    _check((policy,), (seed,))
    started_s = time.process_time()  # other work on this machine must not count
    results = simulate(scenario, policy=policy, seed=seed, progress=progress)
    elapsed_s = time.process_time() - started_s
    return replace(results, events_per_s=results.events / max(elapsed_s, 1e-9))


def compare(
    scenario: Scenario,
    policies: Sequence[str],
    seeds: Sequence[int],
    progress: Progress | None = None,
    *,
    processes: int = 1,
) -> Comparison:
    """Return what comes of `scenario` with each policy and each seed, at most `processes` runs at a time.

    Raises what `run_scenario` raises; runs that have begun elsewhere end first.
    """
    _check(policies, seeds)
    jobs = [(policy, seed) for policy in policies for seed in seeds]
    if processes <= 1 or len(jobs) == 1:
        done = [
            run_scenario(
                scenario, policy=policy, seed=seed, progress=_part(progress, turn, len(jobs))
            )
            for turn, (policy, seed) in enumerate(jobs)
        ]
        return Comparison(scenario.title, tuple(done))
    context = multiprocessing.get_context("spawn")  # copies nothing that the caller's threads hold
    with ProcessPoolExecutor(
        min(processes, len(jobs)), mp_context=context, initializer=freeze_loaded_objects
    ) as pool:
        futures = [
            pool.submit(run_scenario, scenario, policy=policy, seed=seed) for policy, seed in jobs
        ]
        try:
            for count, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress is not None:
                    progress(count / len(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return Comparison(scenario.title, tuple([future.result() for future in futures]))


def _part(progress: Progress | None, turn: int, count: int) -> Progress | None:
    if progress is None:
        return None
    return lambda part: progress((turn + part) / count)


def _check(policies: Sequence[str], seeds: Sequence[int]) -> None:
    for policy in policies:
        if policy not in POLICIES:
            raise ConfigError(f"policy {policy!r} is unknown; known: {', '.join(sorted(POLICIES))}")
    for name, values in (("policies", policies), ("seeds", seeds)):
        if not values or len(set(values)) != len(values):
            raise ConfigError(f"{name} {list(values)!r}: at least one, each once")
