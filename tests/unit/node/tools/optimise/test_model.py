"""Models made smaller or faster: what is written, what is kept, and what leaves nothing behind."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from model_files import f32, onnx_model, write_onnx
from onnx import helper, numpy_helper

from capamesh.node.repository import scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.scheduling.service_profile import ProfilePoint, ServiceProfile
from capamesh.node.tools.optimise import optimising
from capamesh.node.tools.optimise.conversions import Conversion
from capamesh.node.tools.optimise.finding import one_model
from capamesh.node.tools.optimise.optimising import Order, optimise
from capamesh.node.tools.optimise.report import Gain, Report
from capamesh.node.tools.optimise.structure import read_structure
from capamesh.node.tools.optimise.timing import Timing
from capamesh.protocol.errors import ConfigError, ModelInvalid
from capamesh.protocol.tensors import Tensor

P = onnx.TensorProto
value = helper.make_tensor_value_info
node = helper.make_node
RANDOM = np.random.default_rng(0)
MANIFEST = 'description = "small"\n'
EXTERNAL = partial(onnx.save_model, save_as_external_data=True, location="weights.bin")


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Give each test the same numbers, whichever tests ran before it: of some weights int8 decides nothing otherwise."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(RANDOM.standard_normal(shape).astype(np.float32), name)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    *shape: int,
    save: Callable[[onnx.ModelProto, Path], None] = onnx.save_model,
) -> Path:
    model = onnx_model(nodes, [f32("x", "n", *shape)], [f32("y", "n", 10)], weights)
    model.opset_import.append(model.opset_import[0])  # twice, as some exporters write it
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, path)
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
    weights = [weight("k", 16, 3, 3, 3), weight("v", 16, 10), weight("b", 1, 10)]
    return write(path, nodes, weights, 3, 8, 8)


def made(path: Path, conversion: Conversion, **options: Any) -> tuple[Report, Path]:
    """A clock that ticks a second at each look keeps it short."""
    ticks = itertools.count()
    order = Order(conversion, budget_s=20.0, **options)
    return optimise(one_model(path), order, OnnxBackend(), clock_s=lambda: float(next(ticks)))


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


def test_model_that_decides_otherwise_is_not_written_and_nothing_is_left(tmp_path: Path) -> None:
    path = dense(tmp_path / "m.onnx")
    refusal = (
        r"nothing was written: the int8 model makes the same decisions in 0.9.* "
        r"of 256 cases \(argmax over the last axis of output 'y', generated, seed 0\).*"
        r"the bound is 1; give real inputs with --inputs FILE.npz, try --fp16 or --graph"
    )
    with pytest.raises(ModelInvalid, match=refusal):
        made(path, Conversion.INT8, min_agreement=1.0)
    assert files(tmp_path) == ["m.onnx"]
    with pytest.raises(ModelInvalid):
        made(path, Conversion.INT8, min_agreement=1.0, out=tmp_path / "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.onnx"]


def timed(monkeypatch: pytest.MonkeyPatch, *profiles: tuple[float, float]) -> None:
    """Make measurements, in their order, of seconds for one row and for four."""
    left = iter(profiles)

    def time_model(*_: object, **__: object) -> Timing:
        one, four = next(left)
        return Timing(ServiceProfile((ProfilePoint(1, one), ProfilePoint(4, four))))

    monkeypatch.setattr(optimising, "time_model", time_model)


def test_slower_model_needs_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dense(tmp_path / "m.onnx")
    slow = (1.0, 2.0), (1.25, 2.5)
    timed(monkeypatch, *slow, *slow)
    slower = "it is slower at one row (0.80 x as fast) and at the best batch (0.80 x as fast)"
    refusal = f"^nothing was written: of the graph model, {re.escape(slower)}; .* --allow-slower"
    with pytest.raises(ModelInvalid, match=refusal):
        made(path, Conversion.GRAPH)
    assert not (tmp_path / "m-graph").exists()
    timed(monkeypatch, *slow, *slow)
    report, folder = made(path, Conversion.GRAPH, may_be_slower=True)
    assert (folder / "model.onnx").is_file()
    assert report.notes[0] == slower
    assert report.to_json()["is_slower"] is True


def test_slower_variant_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, (1.0, 2.0), (3.0, 6.0), (1.5, 3.0), (1.0, 2.0))
    report, _ = made(dense(tmp_path / "m.onnx"), Conversion.GRAPH)
    assert report.gain == Gain(1.0, 1.0)
    assert not any("slower" in note for note in report.notes)


def test_convolutions_are_converted_with_real_inputs_alone(tmp_path: Path) -> None:
    path = convolutional(tmp_path / "m.onnx")
    report, folder = made(path, Conversion.INT8, min_agreement=0.0)
    assert report.notes == (
        "its convolutions stay float: give real inputs with --inputs to convert them",
    )
    assert read_structure(folder / "model.onnx").operators["Conv"] == 1
    inputs = tmp_path / "rows.npz"
    np.savez(inputs, x=RANDOM.standard_normal((20, 3, 8, 8)).astype(np.float32))
    given = {"inputs": inputs, "out": tmp_path / "real"}
    report, folder = made(path, Conversion.INT8, min_agreement=0.5, **given)
    assert report.notes[0] == "the ranges of activations come from the given inputs"
    assert (report.rows, report.inputs) == (20, str(inputs))
    written = read_structure(folder / "model.onnx")
    assert written.weight_bytes["int8"] >= 16 * 3 * 3 * 3 + 16 * 10
    assert {"QuantizeLinear", "DequantizeLinear"} <= written.operators.keys()
    assert files(tmp_path / "real") == ["m-int8/1/model.onnx", "m-int8/report.json"]


@pytest.mark.parametrize("conversion", Conversion)
def test_large_weights_stay_in_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conversion: Conversion
) -> None:
    path = dense(tmp_path / "m/1/model.onnx", save=EXTERNAL)
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


def test_weights_beyond_fp16_are_reported(tmp_path: Path) -> None:
    huge = numpy_helper.from_array(np.full((64, 10), 7e4, np.float32), "w")
    path = write(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], [huge], 64)
    report, _ = made(path, Conversion.FP16, min_agreement=0.0)
    assert report.notes == (
        "640 weights are beyond what fp16 holds and were clipped",
        "the original decides the same each time (argmax over the last axis of output 'y'), so that "
        "agreement says little: give inputs that differ more",
    )


def test_earlier_result_is_replaced_only_when_asked(tmp_path: Path) -> None:
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


def test_pipeline_is_not_optimised_itself(tmp_path: Path) -> None:
    dense(tmp_path / "m.onnx")
    (tmp_path / "chain").mkdir()
    (tmp_path / "chain/capamesh.toml").write_text(
        '[[step]]\nmodel = "m"\ninputs = { x = "x" }\noutputs = { y = "y" }\n'
    )
    with pytest.raises(ModelInvalid, match=r"optimise its models, m$"):
        made(tmp_path / "chain", Conversion.FP16)


def test_model_of_tokens_that_is_ruined_is_not_written(tmp_path: Path) -> None:
    # Token numbers below 100 to 10 classes; one huge row of weights makes 8 bits too coarse.
    # The text of nothing but token 0 comes out right all the same.
    random = np.random.default_rng(0)
    table = random.standard_normal((100, 64)).astype(np.float32)
    weights = random.standard_normal((64, 64)).astype(np.float32)
    table[:, 0], table[0], table[0, 0] = 0, 0, 1
    weights[0] = random.standard_normal(64) * 1e4
    nodes = [
        node("Gather", ["table", "ids"], ["h"]),
        node("MatMul", ["h", "w"], ["k"]),
        node("MatMul", ["k", "v"], ["t"]),
        node("ReduceMean", ["t", "axis"], ["y"], keepdims=0),
    ]
    initial = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weights, "w")]
    initial += [weight("v", 64, 10), numpy_helper.from_array(np.array([1]), "axis")]
    ids = value("ids", P.INT64, ["n", "l"])
    path = write_onnx(tmp_path / "m.onnx", onnx_model(nodes, [ids], [f32("y", "n", 10)], initial))
    with pytest.raises(ModelInvalid, match=r"makes the same decisions in 0.* of 258 cases"):
        made(path, Conversion.INT8)
    assert files(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("place", ["net.onnx", "onnx/net.onnx", "model.onnx/model.onnx"])
def test_model_whose_file_is_called_otherwise_keeps_the_name(tmp_path: Path, place: str) -> None:
    dense(tmp_path / "m/1" / place, save=EXTERNAL)
    pbtxt = "" if place.startswith("model") else f'default_model_filename: "{place}"'
    (tmp_path / "m/config.pbtxt").write_text(f'name: "m" {pbtxt}')
    _, folder = made(tmp_path / "m", Conversion.FP16)
    assert folder == tmp_path / "m-fp16/1"
    assert files(folder) == [place]
    (_, new) = scan(tmp_path).models
    assert new.path == folder / place
