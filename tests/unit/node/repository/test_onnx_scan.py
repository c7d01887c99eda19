"""What is read from an ONNX file before it is loaded: the weights' datatypes, and compiled code."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from capamesh.node.repository.onnx_scan import MAX_DEPTH, contents_of, precision
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec

P = onnx.TensorProto
value = helper.make_tensor_value_info
node = helper.make_node


def zeros(kind: int, *shape: int) -> onnx.TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return onnx.numpy_helper.from_array(np.zeros(shape, dtype), "w")


def model(
    *initializers: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", [value("x", P.FLOAT, [1])], [], list(initializers))
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def weights(proto: onnx.ModelProto) -> dict[int, int]:
    return contents_of(io.BytesIO(proto.SerializeToString())).weights


def test_weights_are_counted_by_their_datatype() -> None:
    proto = model(
        zeros(P.FLOAT, 3, 5), zeros(P.FLOAT), zeros(P.FLOAT16, 2, 300), zeros(P.INT64, 0, 4)
    )
    assert weights(proto) == {P.FLOAT: 16, P.FLOAT16: 600, P.INT64: 0}


def test_operator_whose_work_values_set_is_reported_wherever_it_is() -> None:
    plain = node("Relu", ["x"], ["y"])
    turns = node("Range", ["a", "b", "c"], ["w"])
    branch = helper.make_graph([turns], "b", [], [value("w", P.FLOAT, None)])
    wrapped = helper.make_node("Custom", ["x"], ["y"], body=branch)
    function = helper.make_function("f", "F", ["x"], ["y"], [turns], [helper.make_opsetid("", 21)])
    with_function = model(nodes=(plain,))
    with_function.functions.append(function)
    for proto, is_data_dependent in (
        (model(nodes=(plain,)), False),
        (model(nodes=(plain, turns)), True),
        (model(nodes=(node("AffineGrid", ["x", "size"], ["y"]),)), True),
        (model(nodes=(wrapped,)), True),
        (with_function, True),
    ):
        found = contents_of(io.BytesIO(proto.SerializeToString()))
        assert found.is_data_dependent is is_data_dependent


def test_operator_that_draws_by_chance_is_reported_wherever_it_is() -> None:
    plain = node("Relu", ["x"], ["y"])
    branch = helper.make_graph(
        [node("Bernoulli", ["x"], ["y"])], "b", [], [value("y", P.FLOAT, None)]
    )
    choice = node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    for proto, is_random in (
        (model(nodes=(plain,)), False),
        (model(nodes=(plain, node("RandomNormalLike", ["x"], ["y"], seed=1.0))), True),
        (model(nodes=(choice,)), True),
    ):
        assert contents_of(io.BytesIO(proto.SerializeToString())).is_random is is_random


def spec(datatype: Datatype) -> TensorSpec:
    return TensorSpec("x", datatype, (-1,))


@pytest.mark.parametrize(
    ("found", "datatypes", "expected"),
    [
        ({P.FLOAT: 9}, [Datatype.FP16], "fp32"),
        ({P.INT8: 90, P.FLOAT: 10}, [], "int8"),
        ({P.UINT8: 50, P.INT8: 40, P.FLOAT: 10, P.INT32: 10_000}, [], "int8"),
        ({P.INT8: 89, P.FLOAT: 11}, [], "mixed"),
        ({P.INT4: 90, P.FLOAT16: 10}, [], "mixed"),
        ({P.FLOAT8E4M3FN: 1}, [], "mixed"),
        ({}, [Datatype.FP16, Datatype.INT64], "fp16"),
        ({P.FLOAT: 0}, [Datatype.FP64], "fp64"),
        ({}, [Datatype.FP16, Datatype.FP32], "mixed"),
        ({}, [Datatype.INT64, Datatype.BYTES], ""),
    ],
)
def test_precision_is_the_weights_or_without_any_the_signatures(
    found: dict[int, int], datatypes: list[Datatype], expected: str
) -> None:
    assert precision(found, [spec(datatype) for datatype in datatypes]) == expected


def compiled() -> onnx.NodeProto:
    return node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context=b"code")


def in_branch() -> onnx.ModelProto:
    branch = helper.make_graph([compiled()], "b", [], [value("y", P.FLOAT, None)])
    return model(nodes=(node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),))


def in_function() -> onnx.ModelProto:
    proto = model(nodes=(node("Own", ["x"], ["y"], domain="own"),))
    opsets = [helper.make_opsetid("com.microsoft", 1)]
    proto.functions.append(helper.make_function("own", "Own", ["x"], ["y"], [compiled()], opsets))
    return proto


def in_list() -> onnx.ModelProto:
    """Return a model whose operator has a list of graphs, as no standard one has."""
    graph = helper.make_graph([compiled()], "b", [], [])
    return model(nodes=(node("Own", ["x"], ["y"], domain="own", bodies=[graph]),))


@pytest.mark.parametrize(
    "proto", [in_branch(), in_list(), in_function()], ids=["branch", "list", "function"]
)
def test_model_that_brings_compiled_code_is_refused_wherever_it_hides(
    proto: onnx.ModelProto,
) -> None:
    with pytest.raises(ModelInvalid) as caught:
        weights(proto)
    assert caught.value.message == (
        "the model has an operator EPContext, which holds code compiled for a device; export it as "
        "an ordinary ONNX model"
    )


def _varint(number: int) -> bytes:
    raw = bytearray()
    while number >= 0x80:
        raw.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*raw, number])


def test_name_longer_than_any_operators_is_refused() -> None:
    with pytest.raises(ModelInvalid, match="a name or shape of 4097 bytes at byte"):
        weights(model(nodes=(node("x" * 4097, [], []),)))


def test_number_in_place_of_an_operators_name_is_refused() -> None:
    one = b"\x20\x07"  # op_type as a number
    graph = b"\x0a" + bytes([len(one)]) + one
    with pytest.raises(ModelInvalid, match="a number as an operator's name at byte 5"):
        contents_of(io.BytesIO(b"\x3a" + bytes([len(graph)]) + graph))


ALONE = onnx.ModelProto(
    graph=model(zeros(P.FLOAT, 3, 5), nodes=(node("Relu", ["x"], ["y"]),)).graph
).SerializeToString()
"""A model of one field, so that it cannot be cut between two."""


@given(st.integers(1, len(ALONE) - 1))
def test_file_that_is_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ModelInvalid, match="cut short or broken"):
        contents_of(io.BytesIO(ALONE[:length]))


@given(st.binary(max_size=200))
def test_junk_is_counted_or_refused_and_never_fails_otherwise(raw: bytes) -> None:
    with contextlib.suppress(ModelInvalid):
        assert all(count >= 0 for count in contents_of(io.BytesIO(raw)).weights.values())


def test_graph_that_nests_too_deeply_is_refused() -> None:
    raw = b""
    for _ in range(MAX_DEPTH):  # NodeProto.attribute, AttributeProto.g, GraphProto.node
        for tag in (0x32, 0x2A, 0x0A):
            raw = bytes([tag]) + _varint(len(raw)) + raw
    with pytest.raises(ModelInvalid, match=f"nests messages deeper than {MAX_DEPTH}"):
        contents_of(io.BytesIO(b"\x3a" + _varint(len(raw)) + raw))


def test_weight_of_more_dimensions_than_any_array_has_is_refused() -> None:
    for dims in (b"\x08\x02" * 65, b"\x0a\x41" + b"\x02" * 65):  # one by one, and packed
        graph = b"\x2a" + _varint(len(dims)) + dims
        with pytest.raises(ModelInvalid, match="a weight of more than 64 dimensions"):
            contents_of(io.BytesIO(b"\x3a" + _varint(len(graph)) + graph))


def test_one_walk_finds_files_weights_and_operators() -> None:
    outside = P(name="e", data_type=P.FLOAT, dims=[2, 3], data_location=P.EXTERNAL)
    outside.external_data.add(key="location", value="weights.bin")
    constant = P(name="c", data_type=P.FLOAT, dims=[100], data_location=P.EXTERNAL)
    constant.external_data.add(key="location", value="constant.bin")
    proto = model(
        zeros(P.FLOAT, 5),
        outside,
        nodes=(node("Constant", [], ["k"], value=constant), node("Range", ["a", "b", "c"], ["y"])),
    )
    assert contents_of(io.BytesIO(proto.SerializeToString())) == (
        {"weights.bin", "constant.bin"},
        {P.FLOAT: 11},  # a constant is no weight
        True,
        False,
        False,
    )
