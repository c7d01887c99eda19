"""Tiny ONNX models that do one thing to the node that runs them: add, take long, end the process. Writes files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

VERSIONS: Final = '<ir_version: 10, opset_import: ["" : 21]>'
"""Both old enough for ONNX Runtime 1.31."""
LOOP_SIDE = 64
"""Of the matrix that a turn of `looping` multiplies: a turn takes 4 µs (measured)."""
FOREVER = 2**62
"""Turns of a loop that nobody lives to see the end of."""
DEAF_SIDE = 5000
"""Of the matrices that `deaf` multiplies: 50 s (25 s by 4,000, measured), in one operator, which nothing can stop."""
LETHAL = -(2**63)
"""The one value that ends the process in which `lethal` runs."""
LOOP: Final = f"""
unused, done = Loop <body = turn (int64 turn, bool go, float[{LOOP_SIDE}, {LOOP_SIDE}] before, int64[1] count)
  => (bool still, float[{LOOP_SIDE}, {LOOP_SIDE}] after, int64[1] counted)
{{ still = Identity(go) after = MatMul(before, matrix) counted = Add(count, one) }}> (turns, , matrix, zero)
"""
"""Multiplies a matrix `turns` times and counts in `done`. Between two turns the runtime looks whether it should stop."""
LOOP_CONSTANTS: Final = {
    "matrix": np.eye(LOOP_SIDE, dtype=np.float32),
    "zero": np.zeros(1, np.int64),
    "one": np.ones(1, np.int64),
}


def model_of(graph: str, **constants: np.ndarray) -> onnx.ModelProto:
    """Return the model of a graph in ONNX's text form and of more constants, in a form that ONNX Runtime takes."""
    model = onnx.parser.parse_model(f"{VERSIONS}\n{graph}")
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items()
    )
    onnx.checker.check_model(model)
    return model


def adding(value: float) -> onnx.ModelProto:
    """Return y = x + value."""
    return model_of(
        f"adding (float[rows, 4] x) => (float[rows, 4] y) <float value = {{{value}}}> {{ y = Add(x, value) }}"
    )


def lethal() -> onnx.ModelProto:
    """Return y = x mod -1: 0, but for one value.

    -2^63 divided by -1 does not fit into 64 bits: x86 processors trap, and ONNX Runtime 1.31 does not look
    before it divides, so that SIGFPE ends the process. Other processors return something.
    """
    return model_of(
        "lethal (int64[rows, 1] x) => (int64[rows, 1] y) <int64 divisor = {-1}> { y = Mod(x, divisor) }"
    )


def looping() -> onnx.ModelProto:
    """Return a model that turns the loop as often as its input says."""
    return model_of(f"looping (int64[1] turns) => (int64[1] done) {{ {LOOP} }}", **LOOP_CONSTANTS)


def turning(turns: int) -> onnx.ModelProto:
    """Return a model that turns `turns` times, at 4 µs each, whatever its index."""
    return model_of(
        f"""turning (int64[1] index) => (int64[1] done) <int64[1] given = {{{turns}}}, int64[1] nothing = {{0}}>
        {{ no_more = Mul(index, nothing) turns = Add(given, no_more) {LOOP} }}""",
        **LOOP_CONSTANTS,
    )


def looking_up(value: float) -> onnx.ModelProto:
    """Return a model that answers with a row of a table of 17 MiB whose every number is `value`."""
    return model_of(
        f"looking_up (int64[1] index) => (float[1, {LOOP_SIDE}] row) {{ row = Gather(table, index) }}",
        table=np.full((69_632, LOOP_SIDE), value, np.float32),
    )


def deaf() -> onnx.ModelProto:
    """Return a model that multiplies two matrices of `side` x `side` in one go.

    Within an operator the runtime never looks whether it should stop.
    """
    return model_of(
        """deaf (int64[1] side) => (int64[1] total) <int64[1] one = {1}> {
            shape = Concat <axis = 0> (side, side)
            matrix = Expand(one, shape)
            product = MatMul(matrix, matrix)
            sum = ReduceSum <keepdims = 0> (product)
            total = Reshape(sum, one)
        }"""
    )


def counting() -> onnx.ModelProto:
    """Return a model that gives the numbers from 0 to `count`, exclusively.

    What it gives, and the memory that it takes, depends on the value of its input alone.
    """
    return model_of(
        """counting (int64 count) => (int64[count] numbers) <int64 zero = {0}, int64 one = {1}>
        { numbers = Range(zero, count, one) }"""
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
