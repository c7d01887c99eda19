"""The answer of Triton's statistics routes, as JSON objects. Pure."""

from __future__ import annotations

from typing import NamedTuple


class ModelStatistics(NamedTuple):
    """The requests of one version of a model since its counting began; times in seconds."""

    answered: int = 0
    answered_s: float = 0.0
    """The time from a request to its answer, summed up."""
    rows: int = 0
    """The rows of all answers; a request of a model that takes no batches is one."""
    queue_s: float = 0.0
    run_s: float = 0.0
    failed: int = 0
    failed_s: float = 0.0
    last_ms: int = 0
    """The time of the newest answer, in milliseconds since the epoch; 0: there was none."""
    kept: int = 0
    """The requests among those answered that no node ran, for their answers were there."""
    kept_s: float = 0.0
    missed: int = 0
    """The requests that were run because no answer was kept, where one was looked for."""


def model_statistics_entry(name: str, version: str, counted: ModelStatistics) -> dict[str, object]:
    """Return the entry of one version in `model_stats`, with Triton's names.

    As at Triton, requests whose answers were kept are counted as answered and as queued, and not as computed. What a router is
    not told is left out: which requests ran in one batch, so that each counts as an execution, and what a node took to copy
    inputs and outputs, which is part of its run. Copies count all the same, for Triton's load generator ends where the three counts differ.
    """
    answered, run = counted.answered, counted.answered - counted.kept
    return {
        "name": name,
        "version": version,
        "last_inference": counted.last_ms,
        "inference_count": counted.rows,
        "execution_count": run,
        "inference_stats": {
            "success": _duration(answered, counted.answered_s),
            "fail": _duration(counted.failed, counted.failed_s),
            "queue": _duration(answered, counted.queue_s),
            "compute_input": _duration(run, 0.0),
            "compute_infer": _duration(run, counted.run_s),
            "compute_output": _duration(run, 0.0),
            "cache_hit": _duration(counted.kept, counted.kept_s),
            "cache_miss": _duration(counted.missed, 0.0),
        },
        "batch_stats": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
