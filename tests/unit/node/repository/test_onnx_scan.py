"""What is read from an ONNX file before it is loaded: the weights' datatypes, and compiled code."""

from __future__ import annotations

import contextlib
import io
from pathlib import PurePosixPath

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from capamesh.node.repository.external_data import checked_location
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
def test_compiled_code_is_refused_wherever_it_hides(proto: onnx.ModelProto) -> None:
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


F32 = onnx.TensorProto.FLOAT


def external_locations(raw: bytes) -> frozenset[str]:
    return contents_of(io.BytesIO(raw)).locations


def external_tensor(name: str, location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=F32, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def inline_tensor(name: str, count: int = 4) -> onnx.TensorProto:
    return helper.make_tensor(name, F32, [count], [1.0] * count)


def serialised(*initializers: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> bytes:
    return model(*initializers, nodes=nodes).SerializeToString()


def test_locations_are_found_wherever_a_tensor_can_hide() -> None:
    body = helper.make_graph(
        [
            helper.make_node(
                "Constant", [], ["k"], value=external_tensor("c", "in-subgraph-constant")
            )
        ],
        "body",
        [],
        [],
        [external_tensor("w", "in-subgraph")],
    )
    nodes = (
        helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=body),
        helper.make_node("X", [], ["z"], tensors=[external_tensor("t", "in-tensor-list")]),
        helper.make_node("X", [], ["z"], graphs=[body]),
    )
    proto = model(external_tensor("w", "in-graph"), nodes=nodes)
    sparse = helper.make_sparse_tensor(
        external_tensor("sv", "in-sparse-values"), inline_tensor("si"), [4]
    )
    proto.graph.sparse_initializer.append(sparse)
    function = proto.functions.add(name="f", domain="d")
    function.node.append(
        helper.make_node("Constant", [], ["k"], value=external_tensor("c", "in-function"))
    )
    training = proto.training_info.add()
    training.algorithm.initializer.append(external_tensor("o", "in-training"))
    assert external_locations(proto.SerializeToString()) == {
        "in-graph",
        "in-subgraph",
        "in-subgraph-constant",
        "in-tensor-list",
        "in-sparse-values",
        "in-function",
        "in-training",
    }


def test_last_value_of_a_doubled_field_counts_as_protobuf_reads_it() -> None:
    entry = b"\x0a\x08location\x12\x01a\x12\x01b"  # key, value "a", value "b"
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    model = b"\x3a" + bytes([len(graph)]) + graph
    assert onnx.load_model_from_string(model).graph.initializer[0].external_data[0].value == "b"
    assert external_locations(model) == {"b"}


def test_weights_are_skipped_and_not_searched() -> None:
    tensor = onnx.TensorProto(name="w", data_type=F32, dims=[64])
    tensor.raw_data = serialised(external_tensor("w", "decoy"))
    assert external_locations(serialised(tensor)) == frozenset()


def test_locations_are_found_across_the_pages_of_a_large_file() -> None:
    tensors = [inline_tensor(f"w{index}", 5000) for index in range(20)]
    tensors.insert(7, external_tensor("e", "early"))
    tensors += [external_tensor(f"x{index}", f"late-{index}") for index in range(3000)]
    assert external_locations(serialised(*tensors)) == {
        "early",
        *(f"late-{n}" for n in range(3000)),
    }


def test_too_many_fields_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.node.repository.onnx_scan.MAX_FIELDS", 10)
    with pytest.raises(ModelInvalid, match="more than 10 fields"):
        external_locations(b"\x08\x01" * 11)


def test_too_many_nodes_are_refused_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "body", [], [])
    node = helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=body)
    monkeypatch.setattr("capamesh.node.repository.onnx_scan.MAX_NODES", 3)
    external_locations(serialised(nodes=(node,)))
    monkeypatch.setattr("capamesh.node.repository.onnx_scan.MAX_NODES", 2)
    with pytest.raises(ModelInvalid, match="more than 2 nodes"):
        external_locations(serialised(nodes=(node,)))


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"\x3a\x05ab", "field 7 at byte 0 ends at byte 7, its message at byte 4"),
        (b"\x0b", "no field begins at byte 0: wire type 3"),
        (b"\x08" + b"\xff" * 11, "cut short or broken at byte 11"),
        (b"\x09\x00", "ends at byte 9"),
        (b"\x0d\x00", "ends at byte 5"),
    ],
)
def test_bytes_that_are_no_protobuf_are_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(ModelInvalid) as caught:
        external_locations(raw)
    assert complaint in caught.value.message


def test_location_that_is_not_utf8_or_too_long_is_refused() -> None:
    raw = serialised(external_tensor("w", "LOCATION"))
    with pytest.raises(ModelInvalid, match="not UTF-8"):
        external_locations(raw.replace(b"LOCATION", b"LOCATI\xff\xfe"))
    with pytest.raises(ModelInvalid, match="entry of 5000 bytes"):
        external_locations(serialised(external_tensor("w", "x" * 5000)))


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=5))
def test_locations_of_a_written_model_come_back(locations: list[str]) -> None:
    tensors = [external_tensor(f"w{index}", text) for index, text in enumerate(locations)]
    assert external_locations(serialised(*tensors)) == set(locations)


@pytest.mark.parametrize("location", ["sub/w.bin", "a..b"])
def test_location_below_the_model_is_accepted(location: str) -> None:
    assert checked_location(location) == PurePosixPath(location)


@pytest.mark.parametrize("location", ["", "/etc/passwd", "../w.bin", "C:w", "\\w", "a\0b"])
def test_location_that_leaves_the_model_is_refused_on_any_system(location: str) -> None:
    with pytest.raises(ModelInvalid, match="external data location"):
        checked_location(location)
