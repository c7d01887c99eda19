"""A shard has one result or one bad row for each of its rows, within a bound of bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capamesh.protocol.datatypes import BYTES
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensors import Tensor
from capamesh.router.jobs.endpoints import EmbeddingForm
from capamesh.router.jobs.inputs.rows import RowBatch
from capamesh.router.jobs.outputs.sink import LocalSink
from capamesh.router.jobs.row_forms import RowForm
from capamesh.router.jobs.running import shard_results
from capamesh.router.jobs.running.errors import JobFailed, ShardFailed
from capamesh.router.jobs.running.shard_results import ShardResults
from capamesh.router.jobs.spec import (
    FailurePolicy,
    InputFormat,
    InputSpec,
    JobSpec,
    OutputFormat,
    OutputSpec,
)
from capamesh.router.jobs.values import BadRow, JobId, Lease, RowRange
from capamesh.router.requests.embedding_request import EmbeddingRequest

JOB = JobId("job-1")


def results_of(
    rows: int, form: OutputFormat = OutputFormat.JSONL, *, most_bad_rows: int = 10
) -> ShardResults:
    lease = Lease(JOB, 0, 1, 0.0, RowRange(0, rows, 0, 0, rows))
    source = InputSpec(
        "/in", InputFormat.BATCH if form is OutputFormat.BATCH else InputFormat.JSONL, {"x": ("v",)}
    )
    failure = FailurePolicy(most_bad_rows=most_bad_rows)
    return ShardResults(lease, JobSpec("m", source, OutputSpec("", form), failure=failure))


def answer(*outputs: Tensor) -> InferAnswer:
    return InferAnswer(ModelVersion("1"), outputs, 0, 0, LoadReport())


def batch(*numbers: int, places: tuple[int, ...] = (), form: RowForm | None = None) -> RowBatch:
    return RowBatch(list(numbers), [f"r{number}" for number in numbers], {}, places, form)


def bad(number: int) -> BadRow:
    return BadRow(number, f"r{number}", "invalid_request", "wrong", "A")


def written(results: ShardResults, folder: Path) -> list[dict[str, Any]]:
    sink = LocalSink(folder, JOB)
    manifest, _ = results.write(sink)
    assert manifest.part is not None
    return [json.loads(line) for line in sink.read(manifest.part).splitlines()]


def test_row_without_a_result_fails_the_shard(tmp_path: Path) -> None:
    results = results_of(3)
    results.keep(batch(0), answer(Tensor.from_numpy("y", np.array([0], np.int64))))
    results.take_bad([bad(1)])
    with pytest.raises(ShardFailed, match="1 results and 1 bad rows came of 3 rows"):
        results.write(LocalSink(tmp_path, JOB))


def test_bytes_of_results_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_results, "RESULT_BYTES", 100)
    results = results_of(100)
    results.keep(batch(0), answer(Tensor.from_numpy("y", np.zeros((1, 25), np.float32))))
    with pytest.raises(JobFailed, match="more than 100 bytes"):
        results.keep(batch(1), answer(Tensor.from_numpy("y", np.zeros((1, 1), np.int8))))


def test_request_with_a_bad_row_has_an_error_and_no_answer(tmp_path: Path) -> None:
    asked = EmbeddingForm(EmbeddingRequest("m", (), is_tokens=False, is_base64=False, dimensions=0))
    results = results_of(2, OutputFormat.BATCH)
    vectors = Tensor.from_numpy("embedding", np.array([[1.0], [2.0], [3.0]], np.float32))
    tokens = Tensor.from_numpy("tokens", np.array([1, 2, 3], np.int64))
    # two texts of the first request, one of the second; the second's other text is bad
    rows = batch(0, 0, 1, places=(0, 1, 0), form=asked)
    results.keep(rows, answer(vectors, tokens))
    results.take_bad([bad(1)])
    (line,) = written(results, tmp_path)
    assert line["custom_id"] == "r0"
    assert [each["embedding"] for each in line["response"]["body"]["data"]] == [[1.0], [2.0]]


def test_classes_are_kept_as_texts_and_numbers_in_their_place_are_refused(tmp_path: Path) -> None:
    lease = Lease(JOB, 0, 1, 0.0, RowRange(0, 2, 0, 0, 2))
    source = InputSpec("/in", InputFormat.JSONL, {"x": ("v",)})
    results = ShardResults(lease, JobSpec("m", source, OutputSpec(classes={"y": 2})))
    texts = np.array([[b"0.9:1:cat", b"0.1:0:dog"]], object)
    results.keep(batch(0), answer(Tensor.from_numpy("y", texts, BYTES)))
    with pytest.raises(ShardFailed, match="does not classify output 'y'"):
        results.keep(batch(1), answer(Tensor.from_numpy("y", np.zeros((1, 3), np.float32))))
    results.keep(batch(1), answer(Tensor.from_numpy("y", texts, BYTES)))
    assert written(results, tmp_path)[1]["outputs"] == {"y": ["0.9:1:cat", "0.1:0:dog"]}
