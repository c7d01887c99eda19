"""What a node advertises of a model's outputs is what the model gives, whatever it declares."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from capamesh.node.models.preparation import Preparation
from capamesh.node.profiling.output_watch import OutputWatch
from capamesh.node.profiling.profile_cache import ProfileCache
from capamesh.node.repository import scan
from capamesh.node.runtime.api import LoadedModel
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec


class Model:
    """Gives what it was made with, one after the other."""

    provider = "fake"

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.shapes = list(shapes)

    def run(self, *_: object) -> list[Tensor]:
        return [Tensor.from_numpy("y", np.zeros(self.shapes.pop(0), np.float32))]


@pytest.mark.parametrize(
    ("declared", "seen", "reported"),
    [
        ((1, 2), [(4, 2)], (-1, 2)),
        ((-1, 128), [(1, 64), (2, 64)], (-1, -1)),
        ((2,), [(2, 3)], ()),
        ((), [(2, 3)], ()),
    ],
)
def test_declaration_is_widened_by_what_was_seen(
    declared: tuple[int, ...], seen: list[tuple[int, ...]], reported: tuple[int, ...]
) -> None:
    watch = OutputWatch(cast("LoadedModel", Model(*seen)))
    for _ in seen:
        watch.run(())
    specs = (TensorSpec("y", Datatype.FP32, declared), TensorSpec("z", Datatype.FP32, (7,)))
    assert [spec.shape for spec in watch.widened(specs)] == [reported, (7,)]
    assert watch.provider == "fake"


@pytest.mark.parametrize(("declared", "reported"), [([1, 2], (-1, 2))])
def test_model_that_declares_too_little_is_advertised_as_it_answers(
    tmp_path: Path, declared: list[int | str], reported: tuple[int, ...]
) -> None:
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])
    answered = helper.make_tensor_value_info("y", TensorProto.FLOAT, declared)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [given], [answered])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "models").mkdir()
    onnx.save(made, tmp_path / "models/m.onnx")
    (source,) = scan(tmp_path / "models").models
    backend = OnnxBackend("cpu")
    preparation = Preparation(
        backend, ProfileCache(tmp_path / "cache"), circumstances={}, clock=lambda: 0.0
    )
    prepared = preparation.prepare(source, lambda: backend.load(source))
    assert [spec.shape for spec in prepared.plan.public_outputs] == [reported]
    prepared.close()
