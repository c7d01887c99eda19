from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.cli.example_requests import write_example
from capamesh.cli.input_values import parse_inputs, tensor_from_json
from capamesh.cli.output_values import json_of, preview
from capamesh.client import Datatype, ModelMetadata, TensorSpec
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import decode_request

FLOATS = TensorSpec("X", Datatype.FP32, (-1, 3))
TEXTS = TensorSpec("T", Datatype.BYTES, (-1,))
BRAIN = TensorSpec("B", Datatype.BF16, (2,))
SCALAR = TensorSpec("S", Datatype.INT64, ())


def model(*inputs: TensorSpec) -> ModelMetadata:
    return ModelMetadata("m", ("1",), "", inputs, ())


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        (FLOATS, "[[1, 2, 3], [4, 5, 6.5]]", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]),
        (FLOATS, "[1,2,3]", [[1.0, 2.0, 3.0]]),
        (FLOATS, "[]", None),
        (TEXTS, '["a", "ä"]', [b"a", "ä".encode()]),
        (TEXTS, '"one"', [b"one"]),
        (TEXTS, "[]", []),
        (SCALAR, "-7", -7),
    ],
)
def test_json_takes_dtype_and_shape_from_the_model(
    spec: TensorSpec, text: str, expected: object
) -> None:
    if expected is None:
        with pytest.raises(InvalidRequest):
            parse_inputs([f"{spec.name}={text}"], model(spec))
        return
    tensor = parse_inputs([f"{spec.name}={text}"], model(spec))[spec.name]
    assert tensor.datatype is spec.datatype
    assert tensor.to_numpy().tolist() == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("X=[[1,2]]", r"shape \[1, 2\], the model takes \[-1, 3\]"),
        ("X=[[1,2,3],[4,5]]", "needs lists of 3"),
        ('X=[["a",2,3]]', "must be a number"),
        ("X=[[1,2,NaN]]", r"NaN is not JSON, use a \.npy file"),
        ("X=hello", "text needs its quotes"),
        ("Y=1", "has no input 'Y'; its inputs: X"),
        ("X=@/absent.npy", "cannot read /absent.npy for input 'X': No such file"),
        ("X=" + "[" * 5000, "JSON|dimension|shape"),
    ],
)
def test_a_value_that_does_not_fit_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        parse_inputs([text], model(FLOATS))


@pytest.mark.parametrize("texts", [["X"], ["=1"], ["X=[1,2,3]", "X=[1,2,3]"], []])
def test_wrong_forms_are_usage_errors(texts: list[str]) -> None:
    with pytest.raises(typer.BadParameter):
        parse_inputs(texts, model(FLOATS))


def test_files_are_arrays_or_json(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "x.json").write_text("[[0,1,2],[3,4,5]]")
    for file in ("x.npy", "x.json"):
        tensor = parse_inputs([f"X=@{tmp_path / file}"], model(FLOATS))["X"]
        np.testing.assert_array_equal(tensor.to_numpy(), rows)


def test_floats_in_a_file_become_bf16_where_the_model_asks_for_it(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.array([1.0, -2.0], np.float32))
    tensor = parse_inputs([f"B=@{tmp_path}/b.npy"], model(BRAIN))["B"]
    assert tensor.datatype is Datatype.BF16
    assert tensor.to_numpy().tolist() == [0x3F80, 0xC000]


def test_a_file_of_objects_is_not_run(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidRequest, match="allow_pickle"):
        parse_inputs([f"X=@{tmp_path}/x.npy"], model(FLOATS))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY\x01\x00"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InvalidRequest):
        parse_inputs([f"X=@{tmp_path}/x.npy"], model(FLOATS))


def test_an_array_of_another_dtype_is_not_cast(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 3)))
    with pytest.raises(InvalidRequest, match=r"x\.npy: tensor 'X' is FP64, the model takes FP32"):
        parse_inputs([f"X=@{tmp_path}/x.npy"], model(FLOATS))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=10,
)


@given(st.sampled_from([FLOATS, TEXTS, BRAIN, SCALAR]), JSON)
def test_any_json_is_a_fitting_tensor_or_refused(spec: TensorSpec, value: object) -> None:
    with suppress(InvalidRequest):
        tensor = tensor_from_json(spec, value)
        assert spec.accepts(tensor.datatype, tensor.shape) is None
        assert tensor.to_numpy().shape == tensor.shape


def test_outputs_become_strict_json() -> None:
    floats = np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32)
    assert json_of("Y", floats) == {
        "name": "Y",
        "dtype": "float32",
        "shape": [2, 2],
        "data": [[1.5, "NaN"], ["Infinity", "-Infinity"]],
    }
    texts = np.array([b"a", "ä".encode(), b"\xff"], dtype=object)
    assert json_of("T", texts)["data"] == ["a", "ä", "\\xff"]
    assert json_of("S", np.array(3))["data"] == 3


def test_a_preview_of_a_large_output_is_short() -> None:
    assert preview(np.arange(4)) == "[0 1 2 3]"
    assert len(preview(np.zeros((100, 100, 100)))) < 4000
    assert preview(np.array([b"yes"], dtype=object)) == "['yes']"


def test_an_example_is_a_request_that_the_model_takes(tmp_path: Path) -> None:
    wanted = model(FLOATS, TEXTS, BRAIN, SCALAR)
    example = write_example(tmp_path, wanted, tmp_path / "absent.npz")
    request = decode_request("m", "", example.request.read_bytes(), None)
    for spec, tensor in zip(wanted.inputs, request.inputs, strict=True):
        assert spec.accepts(tensor.datatype, tensor.shape) is None
    assert json.loads(example.request.read_text())["inputs"][1]["data"] == ["text"]
    assert f"--input X=@{tmp_path}/m-0.npy" in example.infer_options
    assert """--input 'T=["text"]'""" in example.infer_options


def test_an_example_is_the_samples_first_row_where_it_fits(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "case.npz", rows=rows)
    write_example(tmp_path, model(FLOATS), tmp_path / "case.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "m-0.npy"), rows[:1])
    other = TensorSpec("X", Datatype.FP32, (-1, 4))
    write_example(tmp_path, model(other), tmp_path / "case.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "m-0.npy"), np.zeros((1, 4), np.float32))
