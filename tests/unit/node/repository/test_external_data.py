"""The reader of external-data locations, against models that the onnx package wrote."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from capamesh.node.repository.external_data import checked_location
from capamesh.node.repository.onnx_scan import contents_of
from capamesh.protocol.errors import ModelInvalid

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


def make_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def serialised(*initializers: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> bytes:
    return make_model(helper.make_graph(nodes, "g", [], [], initializers)).SerializeToString()


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
    graph = helper.make_graph(nodes, "g", [], [], [external_tensor("w", "in-graph")])
    sparse = helper.make_sparse_tensor(
        external_tensor("sv", "in-sparse-values"), inline_tensor("si"), [4]
    )
    graph.sparse_initializer.append(sparse)
    model = make_model(graph)
    function = model.functions.add(name="f", domain="d")
    function.node.append(
        helper.make_node("Constant", [], ["k"], value=external_tensor("c", "in-function"))
    )
    training = model.training_info.add()
    training.algorithm.initializer.append(external_tensor("o", "in-training"))
    assert external_locations(model.SerializeToString()) == {
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


def test_file_that_becomes_shorter_while_it_is_read_is_refused() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size)[:4]

    with pytest.raises(ModelInvalid, match="became shorter while it was read"):
        contents_of(Shrinking(serialised(inline_tensor("w"))))


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


@given(st.data())
def test_cut_or_changed_model_raises_nothing_but_the_documented_error(
    data: st.DataObject,
) -> None:
    raw = bytearray(serialised(external_tensor("w", "weights.bin"), inline_tensor("v")))
    del raw[data.draw(st.integers(0, len(raw))) :]
    if raw:
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        external_locations(bytes(raw))
    except ModelInvalid:
        return


@pytest.mark.parametrize("location", ["sub/w.bin", "a..b"])
def test_location_below_the_model_is_accepted(location: str) -> None:
    assert checked_location(location) == PurePosixPath(location)


@pytest.mark.parametrize("location", ["", "/etc/passwd", "../w.bin", "C:w", "\\w", "a\0b"])
def test_location_that_leaves_the_model_is_refused_on_any_system(location: str) -> None:
    with pytest.raises(ModelInvalid, match="external data location"):
        checked_location(location)
