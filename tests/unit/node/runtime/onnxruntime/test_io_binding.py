"""Runs with outputs in kept device memory, with the CPU as the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from capamesh.node.runtime.onnxruntime.io_binding import BoundRuns

P = onnx.TensorProto
value = helper.make_tensor_value_info
node = helper.make_node
Array = np.ndarray


def session(
    outputs: list[onnx.ValueInfoProto], nodes: list[onnx.NodeProto]
) -> onnxruntime.InferenceSession:
    graph = helper.make_graph(nodes, "g", [value("x", P.FLOAT, ["N", 2])], outputs)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.fixture
def sums() -> onnxruntime.InferenceSession:
    """`twice = x + x`, `square = x * x`."""
    return session(
        [value("twice", P.FLOAT, ["N", 2]), value("square", P.FLOAT, ["N", 2])],
        [node("Add", ["x", "x"], ["twice"]), node("Mul", ["x", "x"], ["square"])],
    )


@pytest.fixture
def nonzero() -> onnxruntime.InferenceSession:
    """Where `x` is not zero: an output whose shape its input's does not tell."""
    return session([value("y", P.INT64, [2, "K"])], [node("NonZero", ["x"], ["y"])])


def feed(array: Array) -> Mapping[str, Any]:
    return {"x": onnxruntime.OrtValue.ortvalue_from_numpy(array)}


def rows(*values: list[float]) -> Array:
    return np.array(values, np.float32)


class Spy:
    """Passes a session's calls on and counts the outputs that are bound anew."""

    def __init__(self, inner: onnxruntime.InferenceSession) -> None:
        self.inner = inner
        self.bound: list[str] = []
        self.runs = 0
        self.plain_runs = 0

    def io_binding(self) -> Any:
        binding = self.inner.io_binding()
        bind = binding.bind_output

        def bind_output(name: str, *device: object) -> None:
            self.bound.append(name)
            bind(name, *device)

        binding.bind_output = bind_output
        return binding

    def run_with_iobinding(self, binding: object, options: object) -> None:
        self.runs += 1
        self.inner.run_with_iobinding(binding, options)

    def run(self, names: list[str], given: Mapping[str, Any], options: object) -> Any:
        self.plain_runs += 1
        return self.inner.run(names, given, options)


def test_runs_of_several_shapes_are_the_sessions(sums: onnxruntime.InferenceSession) -> None:
    bound = BoundRuns(sums, "cpu", 0)
    rng = np.random.default_rng(5)
    for count in (1, 3, 3, 0, 3, 64, 1, 1):
        x = rng.standard_normal((count, 2), dtype=np.float32)
        square, twice = bound.run(feed(x), ["square", "twice"])
        np.testing.assert_array_equal(twice, x + x)
        np.testing.assert_array_equal(square, x * x)


def test_output_of_a_shape_by_values_is_never_reused(nonzero: onnxruntime.InferenceSession) -> None:
    spy = Spy(nonzero)
    bound = BoundRuns(spy, "cpu", 0)
    counts = []
    for x in (rows([1, 0]), rows([1, 1]), rows([0, 0]), rows([1, 0])):
        (y,) = bound.run(feed(x), ["y"])
        counts.append((y.shape, spy.runs, spy.plain_runs))
    assert counts == [((2, 1), 1, 0), ((2, 2), 2, 1), ((2, 0), 3, 1), ((2, 1), 4, 1)]


def test_run_after_a_failed_one_is_right(sums: onnxruntime.InferenceSession) -> None:
    bound = BoundRuns(sums, "cpu", 0)
    wrong = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, 3), np.float32))
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="Got invalid dimensions"):
            bound.run({"x": wrong}, ["twice"])
        (twice,) = bound.run(feed(rows([1, 2])), ["twice"])
        assert twice.tolist() == [[2, 4]]


def test_stopped_run_is_not_run_again(sums: onnxruntime.InferenceSession) -> None:
    spy = Spy(sums)
    bound = BoundRuns(spy, "cpu", 0)
    bound.run(feed(rows([1, 2])), ["twice"])
    options = onnxruntime.RunOptions()
    options.terminate = True
    with pytest.raises(Exception, match="terminate"):
        bound.run(feed(rows([1, 2])), ["twice"], options)
    assert (spy.runs, spy.plain_runs) == (2, 0)
    assert bound.run(feed(rows([3, 4])), ["twice"])[0].tolist() == [[6, 8]]
