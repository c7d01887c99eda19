"""What workers count, summed over their lives."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.node.agent.metrics.totals import Histogram, WorkerFigures

INF = math.inf
M = ("m", "1")


def reported(ok: int = 0, name: str = "m", load: int = 1, **changed: Any) -> dict[str, Any]:
    """Return one load's map after `ok` good requests of two rows each, one batch a request."""
    return {
        "name": name,
        "version": "1",
        "load": load,
        "requests": {"ok": ok},
        "dropped": {},
        "rows": 2 * ok,
        "batches": ok,
        "batch_rows": {"bounds": [1, 4], "counts": [0, ok, 0], "sum": 2.0 * ok},
        "queue_s": {"bounds": [0.001], "counts": [ok, 0], "sum": 0.0005 * ok},
        "run_s": {"bounds": [0.001], "counts": [0, ok], "sum": 0.01 * ok},
        "memory_bytes": 100,
        "in_flight": 3,
        "limit": 9,
        **changed,
    }


def test_requests_of_a_replaced_model_are_counted_with_the_new_one() -> None:
    worker = WorkerFigures()
    worker.reported([reported(5, in_flight=3)])
    new = reported(1, load=2, in_flight=2, limit=7, memory_bytes=90)
    worker.reported([new, reported(7, in_flight=1)])
    both = worker.models()[M]
    assert (both.requests, both.rows, both.in_flight) == ({"ok": 8}, 16, 3)
    assert (both.limit, both.memory_bytes) == (7, 90)  # the present is the new one's
    worker.reported([reported(8, in_flight=0), reported(2, load=2)])
    worker.reported([reported(2, load=2)])
    assert worker.models()[M].requests == {"ok": 10}


@pytest.mark.parametrize(
    ("counts", "part", "value"),
    [
        ({1.0: 0, INF: 0}, 0.5, None),
        ({1.0: 10, 2.0: 10, INF: 0}, 0.5, 1.0),
        ({1.0: 10, 2.0: 10, INF: 0}, 0.75, 1.5),
        ({1.0: 98, 2.0: 0, 4.0: 2, INF: 0}, 0.99, 3.0),
        ({1.0: 1, 2.0: 0, INF: 9}, 0.99, 2.0),
        ({INF: 4}, 0.5, 0.0),
    ],
)
def test_quantile_lies_within_its_bucket(
    counts: dict[float, int], part: float, value: float | None
) -> None:
    assert Histogram(counts, 0.0).quantile(part) == pytest.approx(value)


@given(st.lists(st.one_of(st.none(), st.integers(0, 9), st.just("away")), max_size=12))
def test_counts_never_go_down(steps: list[int | str | None]) -> None:
    worker = WorkerFigures()
    before = loads = 0
    for step in steps:
        if step is None:
            worker.ended()
        elif isinstance(step, str):
            worker.reported([])
        else:
            loads += 1
            worker.reported([reported(step, load=loads)])
        figures = worker.models().get(M)
        now = figures.rows if figures else 0
        assert now >= before
        before = now
