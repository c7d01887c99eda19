"""What whole numbers a model's inputs may hold, by what its graph does with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from model_files import onnx_model
from onnx import helper, numpy_helper

from capamesh.node.tools.optimise.number_ranges import number_ranges

P = onnx.TensorProto
value = helper.make_tensor_value_info
node = helper.make_node


def weight(name: str, *shape: int, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, dtype), name)


def numbers(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def ranges(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    name: str = "ids",
    datatype: int = P.INT64,
) -> dict[str, range]:
    inputs, outputs = [value(name, datatype, ["n", "l"])], [value("y", P.FLOAT, None)]
    return dict(number_ranges(onnx_model(nodes, inputs, outputs, weights)))


EMBED = node("Gather", ["table", "ids"], ["y"])
TABLE = weight("table", 30, 4)


THROUGH_OTHERS = [
    node("Cast", ["ids"], ["c"], to=P.INT32),
    node("Unsqueeze", ["c", "axes"], ["u"]),
    node("Concat", ["u", "u"], ["ids2"], axis=0),
    node("Gather", ["table", "ids2"], ["y"]),
]
TWO_TABLES = [
    EMBED,
    node("Equal", ["ids", "pad"], ["is_pad"]),
    node("Gather", ["more", "ids"], ["z"]),
]
DEQUANTIZED = [node("DequantizeLinear", ["q", "s"], ["table"]), EMBED]
ONE_HOT = node("OneHot", ["ids", "depth", "v"], ["y"])
FUSED = node("EmbedLayerNormalization", ["ids", "", "w", "p"], ["y"], domain="com.microsoft")


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([EMBED], [TABLE]),
        ([node("Gather", ["table", "ids"], ["y"], axis=1)], [weight("table", 4, 30)]),
        ([node("Gather", ["table", "ids"], ["y"], axis=-1)], [weight("table", 4, 30)]),
        (THROUGH_OTHERS, [TABLE, numbers("axes", 0)]),
        (DEQUANTIZED, [weight("q", 30, 4, dtype=np.int8), weight("s")]),
        ([node("Constant", [], ["table"], value=weight("t", 30, 4)), EMBED], []),
        ([ONE_HOT], [numbers("depth", 30), numbers("v", 0, 1)]),
        (TWO_TABLES, [TABLE, weight("more", 40, 4), numbers("pad", 1)]),
        ([FUSED], [weight("w", 30, 4), weight("p", 8, 4)]),
    ],
    ids=[
        *("rows", "columns", "last axis", "through other operators", "dequantized", "constant"),
        *("one-hot", "the shorter of two", "fused"),
    ],
)
def test_number_that_is_looked_up_is_less_than_the_table_is_long(
    nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]
) -> None:
    assert ranges(nodes, weights) == {"ids": range(30)}


def test_masks_are_ones() -> None:
    nodes = [node("Cast", ["attention_mask"], ["y"], to=P.FLOAT)]
    assert ranges(nodes, name="attention_mask") == {"attention_mask": range(1, 2)}
    assert ranges(nodes, name="attention_mask", datatype=P.BOOL) == {"attention_mask": range(1, 2)}


@pytest.mark.parametrize(
    ("datatype", "expected"),
    [(P.UINT8, range(256)), (P.INT8, range(-128, 128)), (P.BOOL, range(2))],
)
def test_small_datatypes_are_full_of_usual_numbers(datatype: int, expected: range) -> None:
    assert ranges([node("Cast", ["ids"], ["y"], to=P.FLOAT)], datatype=datatype) == {
        "ids": expected
    }
    long = [node("Cast", ["ids"], ["i"], to=P.INT64), node("Gather", ["table", "i"], ["y"])]
    looked_up = ranges(long, [weight("table", 1000, 4)], datatype=datatype)
    assert looked_up == {"ids": range(expected.stop) if expected.stop > 2 else range(1)}


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Cast", ["ids"], ["y"], to=P.FLOAT)], []),
        ([node("Gather", ["made", "ids"], ["y"])], []),
        ([EMBED, node("Gather", ["made", "ids"], ["z"])], [TABLE]),
        ([EMBED], [weight("table", 0, 4)]),
        ([node("OneHot", ["ids", "made", "v"], ["y"])], [numbers("v", 0, 1)]),
        ([node("Add", ["ids", "offset"], ["i"]), node("Gather", ["table", "i"], ["y"])], [TABLE]),
    ],
    ids=["computed with", "a table made at run time", "also", "empty", "one-hot", "with an offset"],
)
def test_unknown_range_is_left_out(
    nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]
) -> None:
    assert ranges(nodes, weights) == {}
