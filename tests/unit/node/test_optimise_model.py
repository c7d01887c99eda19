"""Models made smaller or faster: what is written, what is kept, and what leaves nothing behind."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from capamesh.node.onnx_backend import OnnxBackend
from capamesh.node.optimise import conversions, optimising
from capamesh.node.optimise.conversions import Conversion
from capamesh.node.optimise.finding import one_model
from capamesh.node.optimise.optimising import STEPS, Order, optimise
from capamesh.node.optimise.report import Report
from capamesh.node.optimise.structure import read_structure
from capamesh.node.store import scan
from capamesh.protocol.errors import ConfigError, ModelInvalid
from capamesh.protocol.tensors import Tensor

P = onnx.TensorProto
value = helper.make_tensor_value_info
node = helper.make_node
RANDOM = np.random.default_rng(0)
PIPELINE = '[[step]]\nmodel = "m"\ninputs = { x = "x" }\noutputs = { y = "y" }\n'
MANIFEST = 'description = "small"\n'


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RANDOM.standard_normal(shape).astype(np.float32), name)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    *shape: int,
    save: Callable[[onnx.ModelProto, Path], None] = onnx.save_model,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", P.FLOAT, ["n", *shape])],
        [value("y", P.FLOAT, ["n", 10])],
        weights,
    )
    # Twice the same opset, as some exporters write it.
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("", 21)]
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, ir_version=10, opset_imports=opsets), path)
    return path


def dense(path: Path, **options: Any) -> Path:
    """64 inputs, 64 hidden units, 10 classes."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "v", "b"], ["y"]),
    ]
    weights = [weight("w", 64, 64), weight("v", 64, 10), weight("b", 1, 10)]
    return write(path, nodes, weights, 64, **options)


def convolutional(path: Path) -> Path:
    """A convolution over 8 x 8 pixels, and 10 classes."""
    nodes = [
        node("Conv", ["x", "k"], ["c"], kernel_shape=[3, 3]),
        node("Relu", ["c"], ["r"]),
        node("GlobalMaxPool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "v", "b"], ["y"]),
    ]
    return write(
        path, nodes, [weight("k", 16, 3, 3, 3), weight("v", 16, 10), weight("b", 1, 10)], 3, 8, 8
    )


def made(path: Path, conversion: Conversion, **options: Any) -> tuple[Report, Path]:
    """A clock that ticks a second at each look keeps it short."""
    ticks = itertools.count()
    return optimise(
        one_model(path),
        Order(conversion, budget_s=20.0, **options),
        OnnxBackend(),
        clock_s=lambda: float(next(ticks)),
    )


def rows(path: Path, *shape: int, count: int = 20) -> Path:
    np.savez(path, x=RANDOM.standard_normal((count, *shape)).astype(np.float32))
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def outputs(path: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    model = OnnxBackend().load(one_model(path))
    return model.run([Tensor.from_numpy("x", x)])[0].to_numpy()


def test_int8_makes_a_smaller_model_beside_the_original_and_reports_on_it(tmp_path: Path) -> None:
    source = dense(tmp_path / "m/3/model.onnx")
    (tmp_path / "m/capamesh.toml").write_text(MANIFEST)
    (tmp_path / "m/labels.txt").write_text("a\nb\n")
    (tmp_path / "m/3/extra.bin").write_bytes(b"1")
    before = source.read_bytes()
    report, folder = made(tmp_path / "m", Conversion.INT8, min_agreement=0.8)
    assert folder == tmp_path / "m-int8" / "3"
    assert files(tmp_path / "m-int8") == [
        *("3/extra.bin", "3/model.onnx", "capamesh.toml", "labels.txt", "report.json")
    ]
    assert source.read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"m", "m-int8"}
    found = scan(tmp_path)
    assert [model.name for model in found.models] == ["m", "m-int8"]
    assert found.models[1].manifest.description == "small"
    written = read_structure(folder / "model.onnx")
    assert written.operators["MatMulInteger"] == 2
    assert report.after.size_bytes < 0.5 * report.before.size_bytes
    assert 0.8 <= report.agreement <= 1
    assert (report.rows, report.inputs) == (256, "generated, seed 0")
    saved = json.loads((tmp_path / "m-int8/report.json").read_text())
    assert saved == json.loads(json.dumps(report.to_json()))
    assert saved["before"]["digest"] == found.models[0].digest
    assert saved["after"]["digest"] == found.models[1].digest
    assert saved["outputs"][0]["measure"] == "argmax over the last axis"
    # Each look at the clock is a second after the last, so that every run takes one.
    assert saved["before"]["one_row_s"] == 1.0


def test_int8_weights_have_a_scale_a_column_and_7_bits_so_that_no_cpu_saturates(
    tmp_path: Path,
) -> None:
    _, folder = made(dense(tmp_path / "m.onnx"), Conversion.INT8, min_agreement=0.0)
    model = onnx.load(folder / "model.onnx")
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == P.INT8 and len(tensor.dims) == 2
    ]
    assert len(weights) == 2
    assert max(int(np.abs(array).max()) for array in weights) <= 64
    scales = [t.dims[0] for t in model.graph.initializer if t.name.endswith("_scale") and t.dims]
    assert sorted(scales) == [10, 64]


def test_a_model_that_decides_otherwise_is_not_written_and_nothing_is_left(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    with pytest.raises(ModelInvalid) as caught:
        made(path, Conversion.INT8, min_agreement=1.0)
    assert (
        "nothing was written: the int8 model makes the same decisions in 0.9"
        in caught.value.message
    )
    assert (
        "of 256 cases (argmax over the last axis of output 'y', generated, seed 0)"
        in caught.value.message
    )
    assert (
        "the bound is 1; give real inputs with --inputs FILE.npz, try --fp16 or --graph"
        in caught.value.message
    )
    assert files(tmp_path) == ["m.onnx"]
    with pytest.raises(ModelInvalid):
        made(path, Conversion.INT8, min_agreement=1.0, out=tmp_path / "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def test_convolutions_stay_float_without_real_inputs_and_are_converted_with_them(
    tmp_path: Path,
) -> None:
    path = convolutional(tmp_path / "m.onnx")
    report, folder = made(path, Conversion.INT8, min_agreement=0.0)
    assert report.notes == (
        "its convolutions stay float: give real inputs with --inputs to convert them",
    )
    assert read_structure(folder / "model.onnx").operators["Conv"] == 1
    inputs = rows(tmp_path / "rows.npz", 3, 8, 8)
    report, folder = made(
        path, Conversion.INT8, inputs=inputs, min_agreement=0.5, out=tmp_path / "real"
    )
    assert report.notes == ("the ranges of activations come from the given inputs",)
    assert (report.rows, report.inputs) == (20, str(inputs))
    written = read_structure(folder / "model.onnx")
    assert written.weight_bytes["int8"] >= 16 * 3 * 3 * 3 + 16 * 10
    assert {"QuantizeLinear", "DequantizeLinear"} <= written.operators.keys()
    assert files(tmp_path / "real") == ["m-int8/1/model.onnx", "m-int8/report.json"]


def test_fp16_halves_the_weights_and_keeps_the_signature(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    report, folder = made(path, Conversion.FP16)
    before, after = read_structure(path), read_structure(folder / "model.onnx")
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert after.weight_bytes == {"fp16": before.weight_bytes["fp32"] // 2}
    assert report.agreement >= 0.99
    assert 0 < report.outputs[0].largest_difference < 0.5


def test_a_graph_is_fused_and_gives_the_same_numbers(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    report, folder = made(path, Conversion.GRAPH)
    assert report.agreement == 1.0
    assert report.notes == ("operators are fused as CPUExecutionProvider runs them best",)
    x = np.ones((2, 64), np.float32)
    assert np.allclose(outputs(path, x), outputs(folder, x), atol=1e-4)


@pytest.mark.parametrize("conversion", Conversion)
def test_large_weights_stay_in_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversion: Conversion
) -> None:
    def save(model: onnx.ModelProto, path: Path) -> None:
        onnx.save_model(model, path, save_as_external_data=True, location="weights.bin")

    path = dense(tmp_path / "m/1/model.onnx", save=save)
    assert read_structure(path).external_files == ("weights.bin",)
    monkeypatch.setattr(optimising, "INLINE_BYTES", 10_000)
    _, folder = made(path, conversion, min_agreement=0.8)
    assert files(folder) == ["model.onnx", "model.onnx.data"]
    assert read_structure(folder / "model.onnx").external_files == ("model.onnx.data",)
    monkeypatch.undo()
    _, folder = made(path, conversion, min_agreement=0.8, out=tmp_path / "inline")
    # The runtime writes weights that lay in a file into a file again.
    is_graph = conversion is Conversion.GRAPH
    assert files(folder) == ["model.onnx", "model.onnx.data"][: 1 + is_graph]


@pytest.mark.parametrize("conversion", [Conversion.INT8, Conversion.FP16])
def test_where_there_is_nothing_to_convert_that_is_said(
    tmp_path: Path, conversion: Conversion
) -> None:
    path = write(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"])], [], 10)
    with pytest.raises(ModelInvalid, match=f"{conversion} changes nothing: it has no"):
        made(path, conversion)
    assert files(tmp_path) == ["m.onnx"]


def test_a_tool_that_fails_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("two\nlines")

    monkeypatch.setattr(conversions, "_to_fp16", fail)
    path = dense(tmp_path / "m.onnx")
    with pytest.raises(ModelInvalid, match="ONNX Runtime's fp16 tool fails on it: two lines"):
        made(path, Conversion.FP16)
    assert files(tmp_path) == ["m.onnx"]


def test_weights_beyond_fp16_are_told(tmp_path: Path) -> None:
    huge = numpy_helper.from_array(np.full((64, 10), 7e4, np.float32), "w")
    path = write(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], [huge], 64)
    report, _ = made(path, Conversion.FP16, min_agreement=0.0)
    assert report.notes == ("640 weights are beyond what fp16 holds and were clipped",)


def test_an_earlier_result_is_replaced_only_when_told_and_other_versions_stay(
    tmp_path: Path,
) -> None:
    dense(tmp_path / "m/1/model.onnx")
    (tmp_path / "m/capamesh.toml").write_text(MANIFEST)
    made(tmp_path / "m", Conversion.GRAPH)
    (tmp_path / "m-graph/capamesh.toml").write_text('description = "mine"\n')
    with pytest.raises(ConfigError, match="m-graph/1 exists; replace it with --force"):
        made(tmp_path / "m", Conversion.GRAPH)
    (tmp_path / "m-graph/1/old").touch()
    made(tmp_path / "m", Conversion.GRAPH, may_replace=True)
    dense(tmp_path / "m/2/model.onnx")
    made(tmp_path / "m", Conversion.GRAPH)
    assert files(tmp_path / "m-graph") == [
        *("1/model.onnx", "2/model.onnx", "capamesh.toml", "report.json")
    ]
    assert (tmp_path / "m-graph/capamesh.toml").read_text() == 'description = "mine"\n'
    assert json.loads((tmp_path / "m-graph/report.json").read_text())["after"]["version"] == "2"
    assert {entry.name for entry in tmp_path.iterdir()} == {"m", "m-graph"}


def test_the_settings_of_a_bare_model_come_along(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    (tmp_path / "m.capamesh.toml").write_text(MANIFEST)
    made(path, Conversion.GRAPH)
    assert (tmp_path / "m-graph/capamesh.toml").read_text() == MANIFEST


def test_a_config_pbtxt_gets_the_new_name(tmp_path: Path) -> None:
    dense(tmp_path / "m/1/model.onnx")
    text = 'name: "m"\nbackend: "onnxruntime"\nmax_batch_size: 0\n'
    (tmp_path / "m/config.pbtxt").write_text(text)
    made(tmp_path / "m", Conversion.GRAPH)
    expected = text.replace('name: "m"', 'name: "m-graph"', 1)
    assert (tmp_path / "m-graph/config.pbtxt").read_text() == expected


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "no/where"):
        with pytest.raises(ConfigError, match="cannot be made; name another --out"):
            made(path, Conversion.GRAPH, out=out)


def test_a_pipeline_is_not_optimised_itself(tmp_path: Path) -> None:
    dense(tmp_path / "m.onnx")
    (tmp_path / "chain").mkdir()
    (tmp_path / "chain/capamesh.toml").write_text(PIPELINE)
    with pytest.raises(ModelInvalid, match=r"optimise its models, m$"):
        made(tmp_path / "chain", Conversion.FP16)


def test_each_step_is_told_and_no_node_sees_a_model_before_the_last(tmp_path: Path) -> None:
    told: list[str] = []
    seen: list[list[str]] = []

    def tell(what: str) -> None:
        told.append(what)
        found = scan(tmp_path)
        seen.append([one.name for one in (*found.models, *found.refused)])

    ticks = itertools.count()
    optimise(
        one_model(dense(tmp_path / "m.onnx")),
        Order(Conversion.GRAPH),
        OnnxBackend(),
        clock_s=lambda: float(next(ticks)),
        tell=tell,
    )
    assert len(told) == STEPS
    assert seen == [["m"]] * STEPS
    assert [model.name for model in scan(tmp_path).models] == ["m", "m-graph"]
