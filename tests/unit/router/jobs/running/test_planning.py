"""Shards are as long as some seconds of work, of the nodes or of the router itself."""

from __future__ import annotations

import pytest

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.inputs.limits import MAX_SHARD_BYTES
from capamesh.router.jobs.running.nodes import Hosting
from capamesh.router.jobs.running.planning import limits_for
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputFormat, OutputSpec

X = TensorSpec("x", Datatype.FP32, (-1,))


def rows_of(source: InputFormat, form: OutputFormat, row_s: float) -> int:
    hosting = Hosting({"x": X}, (X,), frozenset("a"), best_rows=1024, row_s=row_s)
    spec = JobSpec("m", InputSpec("/in", source, {"x": ("v",)}), OutputSpec("", form))
    return limits_for(hosting, spec).rows


@pytest.mark.parametrize("source", [InputFormat.NPY, InputFormat.NPZ, InputFormat.PARQUET])
@pytest.mark.parametrize("form", [OutputFormat.NPZ, OutputFormat.PARQUET])
def test_arrays_of_a_quick_model_make_long_shards(source: InputFormat, form: OutputFormat) -> None:
    assert rows_of(source, form, 0.0) == 5_000_000
    assert rows_of(source, form, 1e-3) == 5_000


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (InputFormat.JSONL, OutputFormat.PARQUET),
        (InputFormat.CSV, OutputFormat.NPZ),
        (InputFormat.NPY, OutputFormat.JSONL),
        (InputFormat.BATCH, OutputFormat.BATCH),
    ],
)
def test_text_takes_the_router_longer(source: InputFormat, form: OutputFormat) -> None:
    assert rows_of(source, form, 0.0) == 500_000
    assert rows_of(source, form, 1e-3) == 5_000


def test_results_of_a_shard_have_a_bound_whatever_its_rows_take() -> None:
    wide = TensorSpec("y", Datatype.FP32, (-1, 1024))
    hosting = Hosting({"x": X}, (wide,), frozenset("a"), best_rows=8)
    spec = JobSpec(
        "m", InputSpec("/in", InputFormat.NPY, {"x": ("array",)}), OutputSpec("", OutputFormat.NPZ)
    )
    assert limits_for(hosting, spec).rows == MAX_SHARD_BYTES // 4096
