"""Texts of any bytes, which ONNX Runtime's Python binding cannot carry, through the library beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_files import source_at
from onnx import helper

from capamesh.node.runtime.api import LoadedModel
from capamesh.node.runtime.onnxruntime import backend as onnx_backend
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.runtime.onnxruntime.raw_texts import (
    MAX_MODEL_BYTES,
    RawTextSession,
)
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Tensor

pytestmark = pytest.mark.skipif(
    onnx_backend._raw_text_runtime() is None,
    reason="this package of ONNX Runtime brings no library beside its Python binding",
)
P = onnx.TensorProto
ODD = [b"\xff\xfe\x00\x80", b"", b"a\x00b", b"\x00", b"\xf0\x9f", "grün".encode(), b"x" * 100_000]


def write(path: Path) -> Path:
    """Write a model that gives back texts, adds a float to itself, and says which texts are "a"."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Identity", ["text"], ["same"]),
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Equal", ["text", "a"], ["is_a"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("text", P.STRING, ["N", "M"]), value("x", P.FLOAT, ["N"])],
        [
            value("same", P.STRING, ["N", "M"]),
            value("twice", P.FLOAT, ["N"]),
            value("is_a", P.BOOL, ["N", "M"]),
        ],
        [helper.make_tensor("a", P.STRING, [], [b"a"])],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: Path) -> LoadedModel:
    return OnnxBackend().load(source_at(write(tmp_path / "model.onnx")))


def inputs(*rows: Sequence[bytes]) -> list[Tensor]:
    array = np.empty((len(rows), len(rows[0])), object)
    for row, elements in enumerate(rows):
        array[row, :] = elements
    x = np.arange(len(rows), dtype=np.float32)
    return [Tensor.from_numpy("text", array), Tensor.from_numpy("x", x)]


def values(tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {one.name: one.to_numpy().tolist() for one in tensors}


def test_any_bytes_go_in_and_come_out_as_they_were(model: LoadedModel) -> None:
    asked = inputs(ODD, [b"a"] * len(ODD))
    model.validate(asked)
    assert values(model.run(asked)) == {
        "same": [ODD, [b"a"] * len(ODD)],
        "twice": [0.0, 2.0],
        "is_a": [[False] * len(ODD), [True] * len(ODD)],
    }
    (only,) = model.run(asked, ["twice"])
    assert only.to_numpy().tolist() == [0.0, 2.0]


def test_texts_that_are_utf_8_are_run_by_the_binding(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> list[Tensor]:
        raise AssertionError("the binding can run it")

    monkeypatch.setattr(RawTextSession, "run", run)
    assert values(model.run(inputs(["grün".encode(), b"a\x00b"]), ["same"])) == {
        "same": [["grün".encode(), b"a\x00b"]]
    }


def test_text_that_the_model_makes_may_be_any_bytes_too(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("StringConcat", ["x", "end"], ["y"])],
        "g",
        [value("x", P.STRING, ["N"])],
        [value("y", P.STRING, ["N"])],
        [onnx.TensorProto(name="end", data_type=P.STRING, dims=[1], string_data=[b"\xff"])],
    )
    whole = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    (tmp_path / "model.onnx").write_bytes(whole.SerializeToString())
    model = OnnxBackend().load(source_at(tmp_path / "model.onnx"))
    (y,) = model.run([Tensor.from_numpy("x", np.array([b"fine"], object))])
    assert y.to_numpy().tolist() == [b"fine\xff"]


def test_model_that_is_too_large_for_a_second_session_takes_utf_8_alone(tmp_path: Path) -> None:
    small = source_at(write(tmp_path / "model.onnx"))
    content = dataclasses.replace(small.content, size_bytes=MAX_MODEL_BYTES + 1)
    large = dataclasses.replace(small, content=content)
    model = OnnxBackend().load(large)
    with pytest.raises(InvalidRequest, match="Python binding, which takes no others"):
        model.validate(inputs(ODD))
