from __future__ import annotations

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


def test_configuration_uses_tritons_type_names_and_whole_shapes() -> None:
    assert model_config_body("m", _INPUTS, _OUTPUTS) == {
        "name": "m",
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": [
            {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 30]},
            {"name": "words", "data_type": "TYPE_STRING", "dims": []},
        ],
        "output": [{"name": "label", "data_type": "TYPE_INT64", "dims": [-1]}],
        "model_transaction_policy": {"decoupled": False},
    }


def test_an_index_entry_says_its_state_in_tritons_words() -> None:
    assert index_entry("m", "1", IndexState.READY) == {
        "name": "m",
        "version": "1",
        "state": "READY",
        "reason": "",
    }
    entry = index_entry("m", "2", IndexState.UNAVAILABLE, reason="out of memory")
    assert (entry["state"], entry["reason"]) == ("UNAVAILABLE", "out of memory")
    assert [state.value for state in IndexState] == ["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]
