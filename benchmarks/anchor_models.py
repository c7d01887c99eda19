"""Builds the models that servers are compared on: real shapes, seeded random weights. Writes files.

    python benchmarks/anchor_models.py [--into build/anchors/models]

name       inputs                                                               output
mlp        x f32 [N, 64]                                                        y f32 [N, 10]
resnet     image f32 [N, 3, 224, 224]                                           logits f32 [N, 1000]
minilm     input_ids, attention_mask, token_type_ids i64 [N, S]                 last_hidden_state f32 [N, S, 384]

Weights are scaled so that signals neither die out nor overflow: what comes out can be compared between servers.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 20260703
OPSET = 21
IR_VERSION = 10
"""Older than what ONNX Runtime 1.31 reads (opset 26, IR 13), so that older runtimes of other servers read it too."""

RESNET_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels and the stride of each stage's first block; two blocks a stage (He et al. 2015, table 1)."""
RESNET_CLASSES = 1000

LAYERS = 6
HIDDEN = 384
HEADS = 12
FEED_FORWARD = 1536
VOCABULARY = 30522
POSITIONS = 512
NORM_EPSILON = 1e-12
"""These seven are all-MiniLM-L6-v2's own, from its config.json."""
MASKED = -10_000.0
"""The number that BERT adds to the scores of masked positions."""


class GraphBuilder:
    """Collects nodes and weights; every method that adds a node returns its output's name."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(SEED)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Add a node with one output, which is called `output` or something unique."""
        name = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        """Add `array` as it is."""
        name = f"w_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, scale: float) -> str:
        """Add normally distributed f32 of `shape` with standard deviation `scale`."""
        return self.constant(self._random.standard_normal(shape, np.float32) * np.float32(scale))

    def zeros(self, count: int) -> str:
        """Add f32 [count] of zeros: a bias costs the same whatever it is."""
        return self.constant(np.zeros(count, np.float32))

    def linear(self, x: str, inputs: int, outputs: int, *, output: str = "") -> str:
        """Add `x @ weight + bias` over the last axis."""
        product = self.node("MatMul", x, self.weight(inputs, outputs, scale=inputs**-0.5))
        return self.node("Add", product, self.zeros(outputs), output=output)

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """Return what was collected as a checked model."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._weights)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model


def mlp() -> onnx.ModelProto:
    """Return 64-64-10 with a ReLU: so little work that only the servers' own is left."""
    b = GraphBuilder()
    hidden = b.node("Relu", b.linear("x", 64, 64))
    b.linear(hidden, 64, 10, output="y")
    return b.model(
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
    )


def resnet() -> onnx.ModelProto:
    """Return ResNet-18 with its batch normalisation folded into the convolutions, as exporters fold it."""
    b = GraphBuilder()

    def convolution(x: str, inputs: int, outputs: int, size: int, stride: int) -> str:
        weight = b.weight(outputs, inputs, size, size, scale=math.sqrt(2 / (inputs * size * size)))
        pads = [size // 2] * 4
        return b.node("Conv", x, weight, b.zeros(outputs), strides=[stride] * 2, pads=pads)

    def block(x: str, inputs: int, outputs: int, stride: int) -> str:
        first = b.node("Relu", convolution(x, inputs, outputs, 3, stride))
        second = convolution(first, outputs, outputs, 3, 1)
        is_same = inputs == outputs and stride == 1
        shortcut = x if is_same else convolution(x, inputs, outputs, 1, stride)
        return b.node("Relu", b.node("Add", second, shortcut))

    channels = RESNET_STAGES[0][0]
    x = b.node("Relu", convolution("image", 3, channels, 7, 2))
    x = b.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for wider, stride in RESNET_STAGES:
        x = block(x, channels, wider, stride)
        x = block(x, wider, wider, 1)
        channels = wider
    x = b.node("Flatten", b.node("GlobalAveragePool", x))
    b.linear(x, channels, RESNET_CLASSES, output="logits")
    return b.model(
        "resnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", RESNET_CLASSES])],
    )


def minilm() -> onnx.ModelProto:
    """Return a BERT encoder of MiniLM's size (Wang et al. 2020, 6 layers of 384)."""
    b = GraphBuilder()

    def norm(x: str, *, output: str = "") -> str:
        scale = b.constant(np.ones(HIDDEN, np.float32))
        zeros = b.zeros(HIDDEN)
        return b.node(
            "LayerNormalization", x, scale, zeros, output=output, epsilon=NORM_EPSILON, axis=-1
        )

    def heads(x: str, order: Sequence[int]) -> str:
        shape = b.constant(np.array([0, 0, HEADS, HIDDEN // HEADS], np.int64))
        return b.node("Transpose", b.node("Reshape", x, shape), perm=list(order))

    def attention(x: str, bias: str) -> str:
        query = heads(b.linear(x, HIDDEN, HIDDEN), (0, 2, 1, 3))
        key = heads(b.linear(x, HIDDEN, HIDDEN), (0, 2, 3, 1))
        value = heads(b.linear(x, HIDDEN, HIDDEN), (0, 2, 1, 3))
        root = b.constant(np.float32(math.sqrt(HIDDEN // HEADS)))
        scores = b.node("Div", b.node("MatMul", query, key), root)
        chances = b.node("Softmax", b.node("Add", scores, bias), axis=-1)
        mixed = b.node("Transpose", b.node("MatMul", chances, value), perm=[0, 2, 1, 3])
        flat = b.node("Reshape", mixed, b.constant(np.array([0, 0, HIDDEN], np.int64)))
        return b.linear(flat, HIDDEN, HIDDEN)

    def layer(x: str, bias: str, *, output: str) -> str:
        x = norm(b.node("Add", x, attention(x, bias)))
        inner = b.node("Gelu", b.linear(x, HIDDEN, FEED_FORWARD))
        return norm(b.node("Add", x, b.linear(inner, FEED_FORWARD, HIDDEN)), output=output)

    length = b.node("Gather", b.node("Shape", "input_ids"), b.constant(np.int64(1)))
    zero, one = b.constant(np.int64(0)), b.constant(np.int64(1))
    position = b.node("Range", zero, length, one)
    words = b.node("Gather", b.weight(VOCABULARY, HIDDEN, scale=1), "input_ids")
    places = b.node("Gather", b.weight(POSITIONS, HIDDEN, scale=1), position)
    kinds = b.node("Gather", b.weight(2, HIDDEN, scale=1), "token_type_ids")
    x = norm(b.node("Add", b.node("Add", words, kinds), places))
    mask = b.node("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = b.node("Sub", b.constant(np.float32(1)), mask)
    spread = b.node("Unsqueeze", absent, b.constant(np.array([1, 2], np.int64)))
    bias = b.node("Mul", spread, b.constant(np.float32(MASKED)))
    for number in range(LAYERS):
        x = layer(x, bias, output="last_hidden_state" if number == LAYERS - 1 else "")
    names = ("input_ids", "attention_mask", "token_type_ids")
    hidden = ["N", "S", HIDDEN]
    return b.model(
        "minilm",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "S"]) for name in names],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, hidden)],
    )


BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": mlp,
    "resnet": resnet,
    "minilm": minilm,
}


def build(folder: Path) -> dict[str, Path]:
    """Write every model into `folder` in Triton's layout; return their files by name."""
    files: dict[str, Path] = {}
    for name, model in BUILDERS.items():
        files[name] = folder / name / "1" / "model.onnx"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        files[name].write_bytes(model().SerializeToString())
    return files


def main() -> int:
    """Build all models and print where they are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--into", type=Path, default=Path("build/anchors/models"))
    for name, file in build(parser.parse_args().into).items():
        print(f"{name:<8}{file.stat().st_size:>12} bytes  {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
