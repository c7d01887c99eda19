"""What workers count, summed over their lives, and the node's metrics as text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from capamesh.node.agent.metrics.exporter import NodeTelemetry
from capamesh.node.agent.metrics.totals import (
    AgentReadings,
    Histogram,
    LoopFigures,
    ModelFigures,
    WorkerFigures,
    WorkerSample,
)
from capamesh.protocol import implementation
from capamesh.protocol.adverts import ModelState
from capamesh.protocol.membership_life import LifeFigures

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
def test_quantile_is_in_its_bucket(
    counts: dict[float, int], part: float, value: float | None
) -> None:
    assert Histogram(counts, 0.0).quantile(part) == pytest.approx(value)


def test_model_that_is_not_reported_of_keeps_its_counts_alone() -> None:
    worker = WorkerFigures()
    worker.reported([reported(5), reported(1, "n", load=2)])
    worker.reported([reported(1, "n", load=2)])
    gone = worker.models()[M]
    assert (gone.requests, gone.in_flight, gone.limit, gone.memory_bytes) == ({"ok": 5}, 0, 0, 0)


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


FIGURES = ModelFigures(
    requests={"ok": 5, "overloaded": 2},
    dropped={"expired": 1},
    rows=12,
    batches=3,
    batch_rows=Histogram({4.0: 2, math.inf: 1}, 12.0),
    queue_s=Histogram({0.001: 4, 0.01: 1, math.inf: 0}, 0.5),
    run_s=Histogram({0.001: 0, 0.01: 3, math.inf: 0}, 0.012),
    memory_bytes=2**20,
    in_flight=7,
    limit=64,
)
DELAY = Histogram({0.1: 7, math.inf: 1}, 0.75)
LOOP = LoopFigures(delay_s=DELAY, busy_s=Histogram({0.1: 8, math.inf: 0}, 0.5))
UP = WorkerSample(
    0,
    is_up=True,
    starts=4,
    models={("m", "1"): FIGURES},
    links=2,
    memory_bytes=2**30,
    memory_free_bytes=2**29,
    states={("m", "1"): "ready", ("n", "3"): "failed"},
)
DOWN = WorkerSample(1, is_up=False, starts=1, models={})


def agent_readings(loop: LoopFigures) -> AgentReadings:
    return AgentReadings(
        version="1.2.3",
        data_folder=Path(__file__).parent,
        membership=lambda: LifeFigures(60.0, 0.25),
        clock_behind_s=lambda: -0.5,
        loop=lambda: loop,
    )


def lines(text: bytes, beginning: str = "capamesh_node_") -> list[str]:
    return [line for line in text.decode().splitlines() if line.startswith(beginning)]


def test_counts_of_workers_are_reported_with_the_models_labels() -> None:
    of = 'device="0",model="m",version="1"'
    assert sorted(lines(NodeTelemetry(lambda: [UP, DOWN]).exposition())) == sorted(
        [
            'capamesh_node_worker_up{device="0"} 1.0',
            'capamesh_node_worker_up{device="1"} 0.0',
            'capamesh_node_worker_starts_total{device="0"} 4.0',
            'capamesh_node_worker_starts_total{device="1"} 1.0',
            'capamesh_node_links{device="0"} 2.0',
            'capamesh_node_links{device="1"} 0.0',
            'capamesh_node_device_memory_bytes{device="0"} 1.073741824e+09',
            'capamesh_node_device_memory_bytes{device="1"} 0.0',
            'capamesh_node_device_memory_free_bytes{device="0"} 5.36870912e+08',
            'capamesh_node_device_memory_free_bytes{device="1"} 0.0',
            *(
                f'capamesh_node_models{{device="{device}",state="{state.value}"}} {count}.0'
                for device, counts in (("0", {"ready": 1, "failed": 1}), ("1", {}))
                for state in ModelState
                for count in [counts.get(state.value, 0)]
            ),
            f"capamesh_node_model_ready{{{of}}} 1.0",
            'capamesh_node_model_ready{device="0",model="n",version="3"} 0.0',
            f'capamesh_node_requests_total{{code="ok",{of}}} 5.0',
            f'capamesh_node_requests_total{{code="overloaded",{of}}} 2.0',
            'capamesh_node_dropped_total{device="0",model="m",reason="expired",version="1"} 1.0',
            f"capamesh_node_rows_total{{{of}}} 12.0",
            'capamesh_node_batch_rows_bucket{device="0",le="4.0",model="m",version="1"} 2.0',
            'capamesh_node_batch_rows_bucket{device="0",le="+Inf",model="m",version="1"} 3.0',
            f"capamesh_node_batch_rows_count{{{of}}} 3.0",
            f"capamesh_node_batch_rows_sum{{{of}}} 12.0",
            'capamesh_node_queue_seconds_bucket{device="0",le="0.001",model="m",version="1"} 4.0',
            'capamesh_node_queue_seconds_bucket{device="0",le="0.01",model="m",version="1"} 5.0',
            'capamesh_node_queue_seconds_bucket{device="0",le="+Inf",model="m",version="1"} 5.0',
            f"capamesh_node_queue_seconds_count{{{of}}} 5.0",
            f"capamesh_node_queue_seconds_sum{{{of}}} 0.5",
            'capamesh_node_run_seconds_bucket{device="0",le="0.001",model="m",version="1"} 0.0',
            'capamesh_node_run_seconds_bucket{device="0",le="0.01",model="m",version="1"} 3.0',
            'capamesh_node_run_seconds_bucket{device="0",le="+Inf",model="m",version="1"} 3.0',
            f"capamesh_node_run_seconds_count{{{of}}} 3.0",
            f"capamesh_node_run_seconds_sum{{{of}}} 0.012",
            f"capamesh_node_model_memory_bytes{{{of}}} 1.048576e+06",
            f"capamesh_node_in_flight{{{of}}} 7.0",
            f"capamesh_node_limit{{{of}}} 64.0",
        ]
    )


def test_membership_clock_disk_and_version_of_the_agent_are_reported() -> None:
    found = lines(NodeTelemetry(list, agent_readings(LOOP)).exposition(), "capamesh_")
    values = dict(line.rsplit(" ", 1) for line in found)
    build = f'implementation="{implementation.RUNNING}",version="1.2.3"'
    assert values[f"capamesh_build_info{{{build}}}"] == "1.0"
    assert values["capamesh_membership_expires_seconds"] == "60.0"
    assert values["capamesh_membership_life_left_ratio"] == "0.25"
    assert values["capamesh_clock_behind_seconds"] == "-0.5"
    assert 0 < float(values["capamesh_disk_free_bytes"]) < float(values["capamesh_disk_bytes"])


def test_prometheus_own_parser_takes_the_text_and_odd_names_are_escaped() -> None:
    odd = WorkerSample(0, is_up=True, starts=1, models={('a"\\b', "1"): FIGURES})
    text = NodeTelemetry(lambda: [odd]).exposition().decode()
    families = {one.name: one for one in text_string_to_metric_families(text)}
    kinds = {name: family.type for name, family in families.items()}
    assert kinds["capamesh_node_rows"] == "counter"
    assert kinds["capamesh_node_limit"] == "gauge"
    assert kinds["capamesh_node_run_seconds"] == "histogram"
    (rows,) = families["capamesh_node_rows"].samples
    assert rows.labels["model"] == 'a"\\b'
