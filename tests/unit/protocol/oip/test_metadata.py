from __future__ import annotations

import pytest

from capamesh.protocol.adverts import Scheduling
from capamesh.protocol.oip import IndexState, index_entry, model_config_body, model_metadata_body
from capamesh.protocol.tensors import Datatype, TensorSpec

_INPUTS = [TensorSpec("x", Datatype.FP32, (-1, 30)), TensorSpec("words", Datatype.BYTES, ())]
_OUTPUTS = [TensorSpec("label", Datatype.INT64, (-1,))]


def test_metadata_names_versions_and_declared_tensors() -> None:
    assert model_metadata_body("m", ["1", "2"], _INPUTS, _OUTPUTS) == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 30]},
            {"name": "words", "datatype": "BYTES", "shape": []},
        ],
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
    }


_ROWS_IN = [TensorSpec("x", Datatype.FP32, (-1, 30)), TensorSpec("k", Datatype.INT8, (-1, 2))]
_ROWS_OUT = [TensorSpec("y", Datatype.FP32, (-1, 3, 4))]


@pytest.mark.parametrize(
    ("inputs", "outputs", "max_rows", "best_rows"),
    [
        (_ROWS_IN, _ROWS_OUT, 0, 1),  # its requests do not share runs, and it has no bound
        (_INPUTS, _ROWS_OUT, 8, 8),  # a scalar is no row
        (_ROWS_IN, [TensorSpec("y", Datatype.FP32, (1, 3))], 8, 8),
        ([], _ROWS_OUT, 8, 8),
    ],
)
def test_model_without_a_batch_of_rows_has_whole_shapes(
    inputs: list[TensorSpec], outputs: list[TensorSpec], max_rows: int, best_rows: int
) -> None:
    body = model_config_body("m", inputs, outputs, max_rows=max_rows, best_rows=best_rows)
    assert body["max_batch_size"] == 0
    assert body["output"] == [
        {"name": one.name, "data_type": "TYPE_FP32", "dims": list(one.shape)} for one in outputs
    ]


def test_configuration_is_in_tritons_words() -> None:
    assert model_config_body("m", _INPUTS, _OUTPUTS, labelled=("label", "gone")) == {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 30]},
            {"name": "words", "data_type": "TYPE_STRING", "dims": []},
        ],
        "output": [
            {
                "name": "label",
                "data_type": "TYPE_INT64",
                "dims": [-1],
                "label_filename": "labels.txt",
            }
        ],
        "model_transaction_policy": {"decoupled": False},
    }
    ensemble = model_config_body("m", _ROWS_IN, _ROWS_OUT, scheduling=Scheduling.ENSEMBLE)
    assert (ensemble["platform"], ensemble["backend"]) == ("ensemble", "")
    metadata = model_metadata_body("m", ["1"], [], [], scheduling=Scheduling.ENSEMBLE)
    assert metadata["platform"] == "ensemble"
    sequential = model_config_body("m", _ROWS_IN, _ROWS_OUT, scheduling=Scheduling.SEQUENCE)
    assert (sequential["platform"], sequential["sequence_batching"]) == ("onnxruntime_onnx", {})
    entry = index_entry("m", "2", IndexState.UNAVAILABLE, reason="out of memory")
    assert entry == {"name": "m", "version": "2", "state": "UNAVAILABLE", "reason": "out of memory"}


@pytest.mark.parametrize(
    ("max_rows", "best_rows", "expected"), [(8, 1, 8), (8, 4, 8), (0, 16, 16), (1, 1, 1)]
)
def test_model_that_takes_rows_tells_how_many_and_its_dims_leave_the_batch_out(
    max_rows: int, best_rows: int, expected: int
) -> None:
    body = model_config_body("m", _ROWS_IN, _ROWS_OUT, max_rows=max_rows, best_rows=best_rows)
    assert body["max_batch_size"] == expected
    assert [one["dims"] for one in (*body["input"], *body["output"])] == [[30], [2], [3, 4]]
