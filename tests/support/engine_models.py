"""Tiny ONNX models that do one thing to the node that runs them: add, take long, end the process. Writes files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IR_VERSION = 10
OPSET = 21
"""Both old enough for ONNX Runtime 1.31; onnx 1.23 writes newer ones unless told."""
WIDTH = 4
"""Columns of the models that calculate."""
LOOP_SIDE = 64
"""Of the matrix that a turn of `looping` multiplies: a turn takes 4 µs (measured)."""
FOREVER = 2**62
"""Turns of a loop that nobody lives to see the end of."""
DEAF_SIDE = 5000
"""Of the matrices that `deaf` multiplies: 50 s (25 s by 4,000, measured), in one operator, which nothing can stop."""
LETHAL = -(2**63)
"""The one value that ends the process in which `lethal` runs."""


def adding(value: float) -> onnx.ModelProto:
    """Return y = x + value, float32 [N, 4]."""
    return model_of(
        [helper.make_node("Add", ["x", "value"], ["y"])],
        [value_of("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [value_of("y", TensorProto.FLOAT, ["rows", WIDTH])],
        {"value": np.array(value, np.float32)},
    )


def lethal() -> onnx.ModelProto:
    """Return y = x mod -1, int64 [N, 1]: 0, but for one value.

    -2^63 divided by -1 does not fit into 64 bits: x86 processors trap, and ONNX Runtime 1.31 does not look
    before it divides, so that SIGFPE ends the process. Other processors return something.
    """
    return model_of(
        [helper.make_node("Mod", ["x", "divisor"], ["y"])],
        [value_of("x", TensorProto.INT64, ["rows", 1])],
        [value_of("y", TensorProto.INT64, ["rows", 1])],
        {"divisor": np.array(-1, np.int64)},
    )


def looping() -> onnx.ModelProto:
    """Return a model that multiplies a matrix `turns` times and answers how often: int64 [1] to int64 [1].

    Between two turns the runtime looks whether it should stop.
    """
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("MatMul", ["before", "matrix"], ["after"]),
            helper.make_node("Add", ["count", "one"], ["counted"]),
        ],
        "turn",
        [
            value_of("turn", TensorProto.INT64, []),
            value_of("go", TensorProto.BOOL, []),
            value_of("before", TensorProto.FLOAT, [LOOP_SIDE, LOOP_SIDE]),
            value_of("count", TensorProto.INT64, [1]),
        ],
        [
            value_of("still", TensorProto.BOOL, []),
            value_of("after", TensorProto.FLOAT, [LOOP_SIDE, LOOP_SIDE]),
            value_of("counted", TensorProto.INT64, [1]),
        ],
    )
    return model_of(
        [
            helper.make_node(
                "Loop", ["turns", "", "matrix", "zero"], ["unused", "done"], body=body
            ),
        ],
        [value_of("turns", TensorProto.INT64, [1])],
        [value_of("done", TensorProto.INT64, [1])],
        {
            "matrix": np.eye(LOOP_SIDE, dtype=np.float32),
            "zero": np.zeros(1, np.int64),
            "one": np.ones(1, np.int64),
        },
    )


def turning(turns: int) -> onnx.ModelProto:
    """Return a model that turns `turns` times, at 4 µs each: int64 [1], an index that changes nothing, to int64 [1]."""
    model = looping()
    graph = model.graph
    del graph.input[:]
    graph.input.append(value_of("index", TensorProto.INT64, [1]))
    graph.initializer.append(numpy_helper.from_array(np.array([turns], np.int64), "given"))
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "nothing"))
    graph.node.insert(0, helper.make_node("Mul", ["index", "nothing"], ["no_more"]))
    graph.node.insert(1, helper.make_node("Add", ["given", "no_more"], ["turns"]))
    onnx.checker.check_model(model)
    return model


def looking_up(value: float) -> onnx.ModelProto:
    """Return a model that answers with a row of a table of 17 MiB whose every number is `value`: int64 [1] to float32 [1, 64]."""
    return model_of(
        [helper.make_node("Gather", ["table", "index"], ["row"])],
        [value_of("index", TensorProto.INT64, [1])],
        [value_of("row", TensorProto.FLOAT, [1, LOOP_SIDE])],
        {"table": np.full((69_632, LOOP_SIDE), value, np.float32)},
    )


def deaf() -> onnx.ModelProto:
    """Return a model that multiplies two matrices of `side` x `side` in one go: int64 [1] to int64 [1].

    Within an operator the runtime never looks whether it should stop.
    """
    return model_of(
        [
            helper.make_node("Concat", ["side", "side"], ["shape"], axis=0),
            helper.make_node("Expand", ["one", "shape"], ["matrix"]),
            helper.make_node("MatMul", ["matrix", "matrix"], ["product"]),
            helper.make_node("ReduceSum", ["product"], ["sum"], keepdims=0),
            helper.make_node("Reshape", ["sum", "one"], ["total"]),
        ],
        [value_of("side", TensorProto.INT64, [1])],
        [value_of("total", TensorProto.INT64, [1])],
        {"one": np.ones(1, np.int64)},
    )


def counting() -> onnx.ModelProto:
    """Return a model that gives the numbers from 0 to `count`, exclusively: int64 [] to int64 [count].

    What it gives, and the memory that it takes, depends on the value of its input alone.
    """
    return model_of(
        [helper.make_node("Range", ["zero", "count", "one"], ["numbers"])],
        [value_of("count", TensorProto.INT64, [])],
        [value_of("numbers", TensorProto.INT64, ["count"])],
        {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)},
    )


def save(
    model: onnx.ModelProto, models: Path, name: str, version: int = 1, manifest: str = ""
) -> Path:
    """Write a model version as a node's folder has it, in one step; return the file."""
    file = models / name / str(version) / "model.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    if manifest:
        (models / name / "capamesh.toml").write_text(manifest)
    staged = models.parent / f"{name}.part"
    staged.write_bytes(model.SerializeToString())
    return staged.replace(file)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """Return a model of these nodes, in a form that ONNX Runtime takes."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        outputs,
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model)
    return model


def value_of(name: str, kind: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
