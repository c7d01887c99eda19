"""Rows are packed into full batches in bounded memory, none is lost, and each has one result or one bad row."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capamesh.protocol.datatypes import BYTES, Datatype
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferAnswer, LoadReport
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.protocol.tensors import MAX_CLASSES, Tensor
from capamesh.protocol.tensors.classification import MAX_SCORES
from capamesh.router.jobs.endpoints import EmbeddingForm
from capamesh.router.jobs.inputs.rows import RowBatch
from capamesh.router.jobs.outputs.sink import LocalSink
from capamesh.router.jobs.running import packing, shard_results
from capamesh.router.jobs.running.errors import JobFailed, ShardFailed
from capamesh.router.jobs.running.hosted_rows import batch_rows, call_rows, classified_rows, unfit
from capamesh.router.jobs.running.nodes import Hosting
from capamesh.router.jobs.running.packing import Packer, size_of
from capamesh.router.jobs.running.shard_results import ShardResults
from capamesh.router.jobs.spec import InputFormat, InputSpec, JobSpec, OutputFormat, OutputSpec
from capamesh.router.jobs.values import BadRow, JobId, Lease, RowRange
from capamesh.router.requests.embedding_request import EmbeddingRequest


def batch(first: int, rows: int, width: int = 2) -> RowBatch:
    numbers = list(range(first, first + rows))
    values: Any = np.repeat(np.array(numbers, np.float32), width).reshape(rows, width)
    return RowBatch(numbers, [f"r{number}" for number in numbers], {"x": values})


def packed(packer: Packer, batches: list[RowBatch]) -> list[RowBatch]:
    found = [each for one in batches for each in packer.add(one)]
    return found + list(packer.rest())


def test_no_row_is_lost_or_changed_whatever_the_windows() -> None:
    rng = random.Random(7)
    for _ in range(50):
        batches: list[RowBatch] = []
        first = 0
        while first < 200:
            rows = rng.randint(1, 40)
            batches.append(batch(first, rows, rng.choice((1, 2, 3))))
            first += rows
        packer = Packer(
            lambda: rng.randint(1, 50), lambda: rng.randint(1, 90), rng.choice((100, 10**6))
        )
        found = packed(packer, batches)
        assert sorted(number for each in found for number in each.numbers) == list(range(first))
        for each in found:
            assert each.inputs["x"][:, 0].tolist() == each.numbers


def files(*sizes: int) -> RowBatch:
    content = np.empty(len(sizes), object)
    content[:] = [bytes(size) for size in sizes]
    return RowBatch(
        list(range(len(sizes))), [f"r{at}" for at in range(len(sizes))], {"file": content}
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_call_has_more_bytes_than_it_may_unless_one_row_has(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing.pieces_of, "__defaults__", (100,))
    rng = random.Random(seed)
    packer = Packer(lambda: 8, lambda: 16, most_bytes=300)
    numbers: list[int] = []
    for each in packed(packer, [files(*rng.choices(range(150), k=20)) for _ in range(10)]):
        assert each.rows <= 16
        assert each.rows == 1 or size_of(each) <= 100
        numbers += each.numbers
    assert sorted(numbers) == sorted(list(range(20)) * 10)


PIXELS = TensorSpec("pixels", Datatype.FP32, (-1, 64))
SCORES = TensorSpec("scores", Datatype.FP32, (-1, 10))
IMAGE = TensorSpec("image", BYTES, (-1,))
HOSTED = Hosting({"pixels": PIXELS}, (SCORES,), frozenset("a"), best_rows=32)
OF_PICTURES = replace(HOSTED, task_inputs={"image": IMAGE})


def source(*inputs: str) -> InputSpec:
    return InputSpec("/data/in.jsonl", InputFormat.JSONL, dict.fromkeys(inputs, ("c",)))


def test_call_has_the_best_batch_as_far_as_a_call_may() -> None:
    assert batch_rows(HOSTED) == 32
    assert batch_rows(replace(HOSTED, max_rows=8)) == 8
    one_row = replace(PIXELS, shape=(1, 64))
    assert batch_rows(replace(HOSTED, inputs={"pixels": one_row})) == 1


def test_call_has_one_batch_where_nobody_knows_what_a_row_takes() -> None:
    assert call_rows(HOSTED, 0.0) == 32
    of_texts = {"pixels": replace(PIXELS, shape=(-1, -1))}
    assert call_rows(replace(HOSTED, inputs=of_texts), 1e-9) == 32
    assert call_rows(replace(HOSTED, inputs={"image": IMAGE}), 1e-9) == 32
    assert call_rows(replace(HOSTED, best_rows=1), 1e-9) == 1
    of_any_size = replace(SCORES, shape=(-1, -1))
    assert call_rows(replace(HOSTED, outputs=(of_any_size,)), 1e-9) == 32


@pytest.mark.parametrize("names", [("image",), ("pixels", "image"), ("pixels", "other")])
def test_job_that_fills_other_inputs_is_unfit(names: tuple[str, ...]) -> None:
    hosted = HOSTED if names == ("image",) else OF_PICTURES
    assert "and the model takes 'pixels'" in unfit(hosted, source(*names))


def test_call_whose_outputs_are_classified_has_as_many_rows_as_a_node_classifies() -> None:
    assert classified_rows(HOSTED, {}) == MAX_SCORES
    assert classified_rows(HOSTED, {"scores": 1}) == MAX_CLASSES
    assert classified_rows(HOSTED, {"scores": 3}) == MAX_CLASSES // 3
    wide = replace(HOSTED, outputs=(replace(SCORES, shape=(-1, 1000)), replace(SCORES, name="b")))
    assert classified_rows(wide, {"scores": 1}) == MAX_SCORES // 1000
    assert classified_rows(wide, {"scores": 1, "b": 1}) == MAX_SCORES // 1010
    assert classified_rows(wide, {"scores": MAX_CLASSES, "b": MAX_CLASSES}) == 1


JOB = JobId("job-1")


def results_of(rows: int, form: InputFormat = InputFormat.JSONL, **output: Any) -> ShardResults:
    lease = Lease(JOB, 0, 1, 0.0, RowRange(0, rows, 0, 0, rows))
    source = InputSpec("/in", form, {"x": ("v",)})
    return ShardResults(lease, JobSpec("m", source, OutputSpec("", **output)))


def answer_of(**outputs: Any) -> InferAnswer:
    tensors = tuple(Tensor.from_numpy(name, each) for name, each in outputs.items())
    return InferAnswer(ModelVersion("1"), tensors, 0, 0, LoadReport())


def rows_of(number: int) -> RowBatch:
    return RowBatch([number], [f"r{number}"], {})


def bad(number: int) -> BadRow:
    return BadRow(number, f"r{number}", "invalid_request", "wrong", "A")


def written(results: ShardResults, folder: Path) -> list[dict[str, Any]]:
    sink = LocalSink(folder, JOB)
    manifest, _ = results.write(sink)
    assert manifest.part is not None
    return [json.loads(line) for line in sink.read(manifest.part).splitlines()]


def test_row_without_a_result_fails_the_shard(tmp_path: Path) -> None:
    results = results_of(3)
    results.keep(rows_of(0), answer_of(y=np.array([0], np.int64)))
    results.take_bad([bad(1)])
    with pytest.raises(ShardFailed, match="1 results and 1 bad rows came of 3 rows"):
        results.write(LocalSink(tmp_path, JOB))


def test_bytes_of_results_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_results, "RESULT_BYTES", 100)
    results = results_of(100)
    results.keep(rows_of(0), answer_of(y=np.zeros((1, 25), np.float32)))
    with pytest.raises(JobFailed, match="more than 100 bytes"):
        results.keep(rows_of(1), answer_of(y=np.zeros((1, 1), np.int8)))


def test_request_with_a_bad_row_has_an_error_and_no_answer(tmp_path: Path) -> None:
    asked = EmbeddingForm(EmbeddingRequest("m", (), is_tokens=False, is_base64=False, dimensions=0))
    results = results_of(2, InputFormat.BATCH, format=OutputFormat.BATCH)
    vectors, tokens = np.array([[1.0], [2.0], [3.0]], np.float32), np.array([1, 2, 3], np.int64)
    # two texts of the first request, one of the second; the second's other text is bad
    rows = RowBatch([0, 0, 1], ["r0", "r0", "r1"], {}, (0, 1, 0), asked)
    results.keep(rows, answer_of(embedding=vectors, tokens=tokens))
    results.take_bad([bad(1)])
    (line,) = written(results, tmp_path)
    assert line["custom_id"] == "r0"
    assert [each["embedding"] for each in line["response"]["body"]["data"]] == [[1.0], [2.0]]


def test_classes_are_kept_as_texts_and_numbers_in_their_place_are_refused(tmp_path: Path) -> None:
    results = results_of(2, classes={"y": 2})
    texts = np.array([[b"0.9:1:cat", b"0.1:0:dog"]], object)
    classified = InferAnswer(
        ModelVersion("1"), (Tensor.from_numpy("y", texts, BYTES),), 0, 0, LoadReport()
    )
    results.keep(rows_of(0), classified)
    with pytest.raises(ShardFailed, match="does not classify output 'y'"):
        results.keep(rows_of(1), answer_of(y=np.zeros((1, 3), np.float32)))
    results.keep(rows_of(1), classified)
    assert written(results, tmp_path)[1]["outputs"] == {"y": ["0.9:1:cat", "0.1:0:dog"]}
