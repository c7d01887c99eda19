"""The rows of a call, the bytes of results, and which inputs a job may fill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capamesh.protocol.datatypes import BYTES, Datatype
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.protocol.tensors import MAX_CLASSES
from capamesh.protocol.tensors.classification import MAX_SCORES
from capamesh.router.jobs.running.hosted_rows import (
    batch_rows,
    call_rows,
    classified_rows,
    unfit,
)
from capamesh.router.jobs.running.nodes import Hosting
from capamesh.router.jobs.spec import InputFormat, InputSpec

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
