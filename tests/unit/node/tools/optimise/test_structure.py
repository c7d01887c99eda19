"""What a path means, what is in a model, and what whole numbers its inputs may hold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from model_files import f32, onnx_model, write_onnx
from onnx import helper, numpy_helper

from capamesh.node.repository import ModelSource
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.node.tools.optimise import checking
from capamesh.node.tools.optimise.checking import CheckResult
from capamesh.node.tools.optimise.finding import find_models, one_model
from capamesh.node.tools.optimise.number_ranges import number_ranges
from capamesh.node.tools.optimise.structure import Value, read_structure
from capamesh.protocol.errors import ConfigError

P = onnx.TensorProto
value = helper.make_tensor_value_info
node = helper.make_node


def identity(path: Path, dim: int | str | None = "batch") -> Path:
    x, y = (f32(name, dim, 2) for name in "xy")
    return write_onnx(path, onnx_model([node("Identity", ["x"], ["y"])], [x], [y]))


def check(source: ModelSource, inputs: Path | None = None) -> CheckResult:
    """A clock that ticks a second at each look keeps it short."""
    ticks = itertools.count()
    return checking.check(source, OnnxBackend(), inputs, clock_s=lambda: float(next(ticks)))


def found(path: Path) -> list[str]:
    scan = find_models(path)
    models = [f"{model.name}/{model.version}" for model in scan.models]
    return models + [f"!{refused.name}/{refused.version}" for refused in scan.refused]


def test_path_is_a_file_a_version_or_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, ten = identity(tmp_path / "a/1/model.onnx"), identity(tmp_path / "a/10/model.onnx")
    identity(tmp_path / "a/2/model.onnx")
    bare = identity(tmp_path / "b.onnx")
    (tmp_path / "c").mkdir()
    all_of_a = ["a/1", "a/2", "a/10"]
    assert (found(one), found(ten.parent), found(bare)) == (["a/1"], ["a/10"], ["b/1"])
    assert found(tmp_path / "a") == all_of_a
    assert found(tmp_path) == [*all_of_a, "b/1", "!c/"]
    assert one_model(tmp_path / "a").version == "10"
    assert one_model(one).version == "1"
    monkeypatch.chdir(tmp_path / "a")
    assert found(Path()) == all_of_a


def test_file_that_is_no_model_is_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    loop = tmp_path / "elsewhere" / "loop"
    loop.parent.mkdir()
    loop.symlink_to(loop)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "notes.txt", tmp_path / "absent", loop):
        with pytest.raises(ConfigError, match=r"give NAME.onnx, a model's folder"):
            find_models(path)
    identity(tmp_path / "empty" / "a.onnx")
    identity(tmp_path / "empty" / "b.onnx")
    with pytest.raises(ConfigError, match="holds 2 models, of which this takes one: a, b"):
        one_model(tmp_path / "empty")


def test_structure_counts_subgraphs_constants_and_coefficients(tmp_path: Path) -> None:
    half = numpy_helper.from_array(np.ones((2, 3), np.float16), "half")
    packed = helper.make_tensor("packed", P.INT4, [3], [1, 2, 3])
    branch = helper.make_graph(
        [node("Identity", ["inner"], ["out"])],
        "branch",
        [],
        [value("out", P.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "inner")],
    )
    model = onnx_model(
        [
            node("Constant", [], ["c"], value=numpy_helper.from_array(np.ones(4, np.int64))),
            node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
            node("Scaler", ["x"], ["z"], domain="ai.onnx.ml", offset=[0.0] * 5, scale=[1.0] * 5),
        ],
        [
            f32("x", "batch", None, 5),
            value("flag", P.BOOL, []),
            value("half", P.FLOAT16, [2, 3]),
            helper.make_tensor_sequence_value_info("s", P.FLOAT, None),
        ],
        [value("y", P.FLOAT, None), value("z", P.STRING, [None])],
        [half, packed],
    )
    model.opset_import.add(domain="ai.onnx.ml", version=3)
    model.producer_name, model.producer_version = "me", "7"
    structure = read_structure(write_onnx(tmp_path / "m.onnx", model))
    assert structure.inputs == (
        Value("x", "fp32", ("batch", "?", 5)),
        Value("flag", "bool", ()),
        Value("s", "sequence", None),
    )
    assert [str(output) for output in structure.outputs] == ["y fp32[any shape]", "z string[?]"]
    assert structure.parameters == 6 + 3 + 4 + 2 * 2 + 10
    assert structure.weight_bytes == {"fp32": 56, "int64": 32, "fp16": 12, "int4": 2}
    assert structure.operators == {"Identity": 2, "Constant": 1, "If": 1, "ai.onnx.ml.Scaler": 1}
    assert structure.opsets == {"ai.onnx": 21, "ai.onnx.ml": 3}
    assert (structure.ir_version, structure.producer) == (10, "me 7")


@pytest.mark.parametrize(
    ("dim", "batching"),
    [
        ("batch", "yes: every first dimension is open"),
        (None, "yes: every first dimension is open"),
        (4, "no: the first dimension of input x is always 4"),
    ],
)
def test_model_with_open_rows_batches(tmp_path: Path, dim: int | str | None, batching: str) -> None:
    assert read_structure(identity(tmp_path / "m.onnx", dim)).batching == batching


def test_pipeline_is_checked_with_the_models_of_its_steps(tmp_path: Path) -> None:
    def chain(name: str, model: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        step = f'[[step]]\nmodel = "{model}"\ninputs = {{ x = "x" }}\noutputs = {{ y = "y" }}\n'
        (folder / "capamesh.toml").write_text(step)
        return folder

    identity(tmp_path / "m/1/model.onnx")
    good, nested = chain("good", "m"), chain("nested", "good")
    for folder in (good, nested):
        verdict = check(one_model(folder))
        assert (verdict.reason, verdict.provider) == ("", "CPUExecutionProvider")
    absent, round_and_round = chain("absent", "nobody"), chain("a", "b")
    chain("b", "a")
    for folder in (absent, round_and_round):
        assert "is not loaded" in check(one_model(folder)).reason


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
def test_unknown_is_left_out(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> None:
    assert ranges(nodes, weights) == {}
