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


def model_statistics_entry(name: str, version: str, counted: ModelStatistics) -> dict[str, object]:
    """Return the entry of one version in `model_stats`, with Triton's names.

    What a router is not told is 0: how requests were put into batches, and what a node took to copy inputs and outputs,
    which is part of its run. These are counted all the same, for Triton's load generator ends where the three counts differ.
    There is no cache to hit or miss.
    """
    answered = counted.answered
    return {
        "name": name,
        "version": version,
        "last_inference": counted.last_ms,
        "inference_count": counted.rows,
        "execution_count": 0,
        "inference_stats": {
            "success": _duration(answered, counted.answered_s),
            "fail": _duration(counted.failed, counted.failed_s),
            "queue": _duration(answered, counted.queue_s),
            "compute_input": _duration(answered, 0.0),
            "compute_infer": _duration(answered, counted.run_s),
            "compute_output": _duration(answered, 0.0),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
