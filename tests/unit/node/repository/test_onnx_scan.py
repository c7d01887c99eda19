"""What is read from an ONNX file before it is loaded: the weights' datatypes, and compiled code."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_files import f32, onnx_model
from onnx import helper

from capamesh.node.repository.external_data import checked_location
from capamesh.node.repository.onnx_scan import MAX_DEPTH, OnnxContents, contents_of, precision
from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.tensors import Datatype, TensorSpec

P = onnx.TensorProto
value = helper.make_tensor_value_info
node = helper.make_node


def zeros(kind: int, *shape: int) -> onnx.TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return onnx.numpy_helper.from_array(np.zeros(shape, dtype), "w")


def model(*weights: onnx.TensorProto, nodes: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    return onnx_model(nodes, [f32("x", 1)], weights=weights)


def contents(found: onnx.ModelProto | bytes) -> OnnxContents:
    raw = found if isinstance(found, bytes) else found.SerializeToString()
    return contents_of(io.BytesIO(raw))


def branch_of(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "b", [], [value("y", P.FLOAT, None)])


def if_else(branch: onnx.GraphProto) -> onnx.NodeProto:
    return node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


def with_function(node: onnx.NodeProto) -> onnx.ModelProto:
    proto = model(nodes=(PLAIN,))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    proto.functions.append(helper.make_function("f", "F", ["x"], ["y"], [node], opsets))
    return proto


PLAIN = node("Relu", ["x"], ["y"])


def test_weights_are_counted_by_their_datatype() -> None:
    found = model(
        zeros(P.FLOAT, 3, 5), zeros(P.FLOAT), zeros(P.FLOAT16, 2, 300), zeros(P.INT64, 0, 4)
    )
    assert contents(found).weights == {P.FLOAT: 16, P.FLOAT16: 600, P.INT64: 0}


TURNS = node("Range", ["a", "b", "c"], ["w"])
CHANCE = node("Bernoulli", ["x"], ["y"])


@pytest.mark.parametrize(
    ("found", "is_data_dependent", "is_random"),
    [
        (model(nodes=(PLAIN,)), False, False),
        (model(nodes=(PLAIN, TURNS)), True, False),
        (model(nodes=(node("AffineGrid", ["x", "size"], ["y"]),)), True, False),
        (model(nodes=(node("Custom", ["x"], ["y"], body=branch_of(TURNS)),)), True, False),
        (with_function(TURNS), True, False),
        (model(nodes=(PLAIN, node("RandomNormalLike", ["x"], ["y"], seed=1.0))), False, True),
        (model(nodes=(if_else(branch_of(CHANCE)),)), True, True),
    ],
)
def test_operator_whose_work_values_set_or_that_draws_is_reported_wherever_it_is(
    found: onnx.ModelProto, *, is_data_dependent: bool, is_random: bool
) -> None:
    seen = contents(found)
    assert (seen.is_data_dependent, seen.is_random) == (is_data_dependent, is_random)


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


COMPILED = node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context=b"code")
IN_LIST = node("Own", ["x"], ["y"], domain="own", bodies=[branch_of(COMPILED)])
"""An operator with a list of graphs, as no standard one has."""


@pytest.mark.parametrize(
    "found",
    [
        model(nodes=(if_else(branch_of(COMPILED)),)),
        model(nodes=(IN_LIST,)),
        with_function(COMPILED),
    ],
    ids=["branch", "list", "function"],
)
def test_compiled_code_is_refused_wherever_it_hides(found: onnx.ModelProto) -> None:
    refusal = "an operator EPContext, which holds code compiled for a device; export it as an"
    with pytest.raises(ModelInvalid, match=refusal):
        contents(found)


def _varint(number: int) -> bytes:
    raw = bytearray()
    while number >= 0x80:
        raw.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*raw, number])


def test_name_longer_than_any_operators_is_refused() -> None:
    with pytest.raises(ModelInvalid, match="a name or shape of 4097 bytes at byte"):
        contents(model(nodes=(node("x" * 4097, [], []),)))


def test_number_in_place_of_an_operators_name_is_refused() -> None:
    one = b"\x20\x07"  # op_type as a number
    graph = b"\x0a" + bytes([len(one)]) + one
    with pytest.raises(ModelInvalid, match="a number as an operator's name at byte 5"):
        contents(b"\x3a" + bytes([len(graph)]) + graph)


ALONE = onnx.ModelProto(
    graph=model(zeros(P.FLOAT, 3, 5), nodes=(node("Relu", ["x"], ["y"]),)).graph
).SerializeToString()
"""A model of one field, so that it cannot be cut between two."""


@given(st.integers(1, len(ALONE) - 1))
def test_file_that_is_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(ModelInvalid, match="cut short or broken"):
        contents(ALONE[:length])


@given(st.binary(max_size=200))
def test_junk_is_counted_or_refused_and_never_fails_otherwise(raw: bytes) -> None:
    with contextlib.suppress(ModelInvalid):
        assert all(count >= 0 for count in contents(raw).weights.values())


def test_graph_that_nests_too_deeply_is_refused() -> None:
    raw = b""
    for _ in range(MAX_DEPTH):  # NodeProto.attribute, AttributeProto.g, GraphProto.node
        for tag in (0x32, 0x2A, 0x0A):
            raw = bytes([tag]) + _varint(len(raw)) + raw
    with pytest.raises(ModelInvalid, match=f"nests messages deeper than {MAX_DEPTH}"):
        contents(b"\x3a" + _varint(len(raw)) + raw)


def test_weight_of_more_dimensions_than_any_array_has_is_refused() -> None:
    for dims in (b"\x08\x02" * 65, b"\x0a\x41" + b"\x02" * 65):  # one by one, and packed
        graph = b"\x2a" + _varint(len(dims)) + dims
        with pytest.raises(ModelInvalid, match="a weight of more than 64 dimensions"):
            contents(b"\x3a" + _varint(len(graph)) + graph)


def locations(found: onnx.ModelProto | bytes) -> frozenset[str]:
    return contents(found).locations


def external(location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=P.FLOAT, dims=[4], data_location=P.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def inline(count: int = 4) -> onnx.TensorProto:
    return helper.make_tensor("w", P.FLOAT, [count], [1.0] * count)


def test_locations_are_found_wherever_a_tensor_can_hide() -> None:
    constant = node("Constant", [], ["k"], value=external("in-subgraph-constant"))
    body = helper.make_graph([constant], "body", [], [], [external("in-subgraph")])
    nodes = (
        if_else(body),
        node("X", [], ["z"], tensors=[external("in-tensor-list")]),
        node("X", [], ["z"], graphs=[body]),
    )
    proto = model(external("in-graph"), nodes=nodes)
    sparse = helper.make_sparse_tensor(external("in-sparse-values"), inline(), [4])
    proto.graph.sparse_initializer.append(sparse)
    function = proto.functions.add(name="f", domain="d")
    function.node.append(node("Constant", [], ["k"], value=external("in-function")))
    proto.training_info.add().algorithm.initializer.append(external("in-training"))
    hidden = ("graph", "subgraph", "subgraph-constant", "tensor-list", "sparse-values")
    assert locations(proto) == {f"in-{each}" for each in (*hidden, "function", "training")}


def test_last_value_of_a_doubled_field_counts_as_protobuf_reads_it() -> None:
    entry = b"\x0a\x08location\x12\x01a\x12\x01b"  # key, value "a", value "b"
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    model = b"\x3a" + bytes([len(graph)]) + graph
    assert onnx.load_model_from_string(model).graph.initializer[0].external_data[0].value == "b"
    assert locations(model) == {"b"}


def test_weights_are_skipped_and_not_searched() -> None:
    tensor = onnx.TensorProto(name="w", data_type=P.FLOAT, dims=[64])
    tensor.raw_data = model(external("decoy")).SerializeToString()
    assert locations(model(tensor)) == frozenset()


def test_locations_are_found_across_the_pages_of_a_large_file() -> None:
    late = [f"late-{number}" for number in range(3000)]
    tensors = [*[inline(5000)] * 7, external("early"), *[inline(5000)] * 13, *map(external, late)]
    assert locations(model(*tensors)) == {"early", *late}


def test_too_many_fields_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.node.repository.onnx_scan.MAX_FIELDS", 10)
    with pytest.raises(ModelInvalid, match="more than 10 fields"):
        locations(b"\x08\x01" * 11)


def test_too_many_nodes_are_refused_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = model(nodes=(if_else(branch_of(PLAIN)),))
    monkeypatch.setattr("capamesh.node.repository.onnx_scan.MAX_NODES", 3)
    contents(found)
    monkeypatch.setattr("capamesh.node.repository.onnx_scan.MAX_NODES", 2)
    with pytest.raises(ModelInvalid, match="more than 2 nodes"):
        contents(found)


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
        locations(raw)
    assert complaint in caught.value.message


def test_location_that_is_not_utf8_or_too_long_is_refused() -> None:
    raw = model(external("LOCATION")).SerializeToString()
    with pytest.raises(ModelInvalid, match="not UTF-8"):
        locations(raw.replace(b"LOCATION", b"LOCATI\xff\xfe"))
    with pytest.raises(ModelInvalid, match="entry of 5000 bytes"):
        locations(model(external("x" * 5000)))


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=5))
def test_locations_of_a_written_model_come_back(texts: list[str]) -> None:
    assert locations(model(*map(external, texts))) == set(texts)


@pytest.mark.parametrize("location", ["sub/w.bin", "a..b"])
def test_location_below_the_model_is_accepted(location: str) -> None:
    assert checked_location(location) == PurePosixPath(location)


@pytest.mark.parametrize("location", ["", "/etc/passwd", "../w.bin", "C:w", "\\w", "a\0b"])
def test_location_that_leaves_the_model_is_refused_on_any_system(location: str) -> None:
    with pytest.raises(ModelInvalid, match="external data location"):
        checked_location(location)
