from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.cli.__main__ import run
from capamesh.cli.example_requests import (
    TRIAL_LIMIT_S,
    WHOLE_SEQUENCE,
    tried_examples,
    write_example,
)
from capamesh.cli.input_values import parse_inputs
from capamesh.cli.operator_client import AsyncOperatorClient
from capamesh.cli.output_values import json_of, preview
from capamesh.cli.parameter_values import parse_parameters
from capamesh.client import Client, Datatype, ModelMetadata, Tensor, TensorSpec
from capamesh.client.answers import Outputs
from capamesh.client.arrays import tensor_from_lists
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import decode_request

FLOATS = TensorSpec("X", Datatype.FP32, (-1, 3))
TEXTS = TensorSpec("T", Datatype.BYTES, (-1,))
BRAIN = TensorSpec("B", Datatype.BF16, (2,))
SCALAR = TensorSpec("S", Datatype.INT64, ())


def model(*inputs: TensorSpec) -> ModelMetadata:
    return ModelMetadata("m", ("1",), "", inputs, ())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("X=[[1,2]]", r"shape \[1, 2\], the model takes \[-1, 3\]"),
        (
            "X=[[1,2,3],[4,5]]",
            "the value of 'X': .*rows differ in length: row 1 has 3, row 2 has 2",
        ),
        ("X=[[1,2,3],[1,2,3],[]]", "row 1 has 3, row 3 has 0"),
        ("X=[[[1],[2,3]]]", "row 1 has 1, row 2 has 2"),
        ('X=[["a",2,3]]', "must be a number"),
        ("X=[[1,2,NaN]]", r"NaN is not JSON, use a \.npy file"),
        ("X=hello", "text needs its quotes"),
        ("Y=1", r"has no input 'Y'; its inputs: X FP32\[-1, 3\]"),
        ("X=@/absent.npy", "cannot read /absent.npy for input 'X': No such file"),
        ("X=" + "[" * 5000, "JSON|dimension|shape"),
    ],
)
def test_value_that_does_not_fit_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        parse_inputs([text], model(FLOATS))


def test_array_of_another_dtype_is_cast_only_when_asked_to(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1.5, np.nan, -np.inf]]))
    text = f"X=@{tmp_path}/x.npy"
    with pytest.raises(
        InvalidRequest,
        match=r"x\.npy: tensor 'X' is FP64, the model takes FP32; convert it with array\.astype\(np\.float32\), "
        "or here with --cast",
    ):
        parse_inputs([text], model(FLOATS))
    tensor = parse_inputs([text], model(FLOATS), is_cast=True)["X"]
    assert tensor.datatype is Datatype.FP32
    np.testing.assert_array_equal(tensor.to_numpy(), np.array([[1.5, np.nan, -np.inf]], np.float32))


def of(datatype: Datatype) -> TensorSpec:
    return TensorSpec("X", datatype, (-1,))


def test_archive_gives_the_array_named_as_the_input_or_its_only_one(tmp_path: Path) -> None:
    rows = np.ones((2, 3), np.float32)
    np.savez(tmp_path / "one.npz", rows=rows)
    np.savez(tmp_path / "more.npz", X=rows, Y=np.zeros(1))
    np.savez(tmp_path / "other.npz", a=rows, b=rows)
    for name in ("one", "more"):
        tensor = parse_inputs([f"X=@{tmp_path}/{name}.npz"], model(FLOATS))["X"]
        np.testing.assert_array_equal(tensor.to_numpy(), rows)
    with pytest.raises(InvalidRequest, match=r"has 2 arrays and none is named 'X': a, b; save one"):
        parse_inputs([f"X=@{tmp_path}/other.npz"], model(FLOATS))


def test_whole_request_given_as_an_input_is_recognised(tmp_path: Path) -> None:
    example = write_example(tmp_path, model(FLOATS), tmp_path / "absent.npz")
    with pytest.raises(
        InvalidRequest, match=rf"a whole inference request.* 'X'.*infer -d @{example.request}"
    ):
        parse_inputs([f"X=@{example.request}"], model(FLOATS))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=10,
)


@given(st.sampled_from([FLOATS, TEXTS, BRAIN, SCALAR]), JSON)
def test_any_json_is_a_fitting_tensor_or_refused(spec: TensorSpec, value: object) -> None:
    with suppress(InvalidRequest):
        tensor = tensor_from_lists(spec, value)
        assert spec.accepts(tensor.datatype, tensor.shape) is None
        assert tensor.to_numpy().shape == tensor.shape


def test_json_that_infer_prints_is_an_input_of_the_next_infer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN and infinities included, which JSON has no numbers for."""
    values = np.array([[1.5, np.nan, np.inf], [-np.inf, 0, -2]], np.float32)

    def answer(_: Client, name: str, inputs: dict[str, Tensor], **__: object) -> Outputs:
        return Outputs({"Y": values if name == "first" else inputs["X"].to_numpy()})

    monkeypatch.setattr(Client, "metadata", lambda *_: model(FLOATS))
    monkeypatch.setattr(Client, "infer", answer)

    def printed(name: str, value: str) -> str:
        assert run(["infer", name, "-i", f"X={value}", "--json"]) == 0
        (output,) = json.loads(capsys.readouterr().out, parse_constant=_never)["outputs"]
        return json.dumps(output["data"])

    first = printed("first", "[1,2,3]")
    assert first == '[[1.5, "NaN", "Infinity"], ["-Infinity", 0.0, -2.0]]'
    assert printed("second", first) == first


def _never(literal: str) -> NoReturn:
    raise AssertionError(f"{literal} is not JSON")


def test_example_is_a_request_that_the_model_takes(tmp_path: Path) -> None:
    wanted = model(FLOATS, TEXTS, BRAIN, SCALAR)
    example = write_example(tmp_path, wanted, tmp_path / "absent.npz")
    request = decode_request("m", "", example.request.read_bytes(), None)
    for spec, tensor in zip(wanted.inputs, request.inputs, strict=True):
        assert spec.accepts(tensor.datatype, tensor.shape) is None
    assert json.loads(example.request.read_text())["inputs"][1]["data"] == ["text"]
    assert f"--input X=@{tmp_path}/m-0.npy" in example.infer_options
    assert """--input 'T=["text"]'""" in example.infer_options


def test_example_is_the_samples_first_row_where_it_fits(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "case.npz", rows=rows)
    write_example(tmp_path, model(FLOATS), tmp_path / "case.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "m-0.npy"), rows[:1])
    other = TensorSpec("X", Datatype.FP32, (-1, 4))
    write_example(tmp_path, model(other), tmp_path / "case.npz")
    np.testing.assert_array_equal(np.load(tmp_path / "m-0.npy"), np.zeros((1, 4), np.float32))


class FakeClient:
    """Takes what its model takes."""

    def __init__(self, *, refuses: str = "", inputs: Sequence[TensorSpec] = (FLOATS,)) -> None:
        self.refuses = refuses
        self.inputs = inputs
        self.asked: list[str] = []

    async def metadata(self, name: str) -> ModelMetadata:
        return replace(model(*self.inputs), name=name)

    async def tasks(self) -> dict[str, str]:
        return {"talks": "chat", "mute": "chat", "plain": ""}

    async def chat(self, name: str, _: str, *, max_tokens: int, timeout_s: float) -> None:
        assert (max_tokens, timeout_s) == (1, TRIAL_LIMIT_S)
        self.asked.append(name)
        if name == self.refuses:
            raise InvalidRequest("its template is broken")

    async def config(self, name: str) -> dict[str, Any]:
        return {"sequence_batching": {}} if name == "vad" else {}

    async def infer(
        self,
        name: str,
        inputs: dict[str, Tensor],
        *,
        timeout_s: float,
        parameters: Mapping[str, object],
    ) -> None:
        assert (list(inputs), timeout_s) == (["X"], TRIAL_LIMIT_S)
        assert dict(parameters) == (dict(WHOLE_SEQUENCE) if name == "vad" else {})
        self.asked.append(name)
        if name == self.refuses:
            raise InvalidRequest("this model keeps a state")


async def test_example_of_a_model_that_keeps_states_is_a_whole_sequence(tmp_path: Path) -> None:
    client = FakeClient()
    (example,) = await tried_examples(
        cast(AsyncOperatorClient, client), ["vad"], tmp_path, tmp_path
    )
    assert (client.asked, example.refusal) == (["vad"], "")
    assert example.infer_options == (
        f"--input X=@{tmp_path}/vad-0.npy -p sequence_id=990001 -p sequence_start=true -p sequence_end=true"
    )
    request = decode_request("vad", "", example.request.read_bytes(), None)
    assert dict(request.parameters) == dict(WHOLE_SEQUENCE)


async def test_example_of_a_model_for_chat_is_a_question(tmp_path: Path) -> None:
    client = FakeClient(refuses="mute")
    found = await tried_examples(
        cast(AsyncOperatorClient, client), ["mute", "talks"], tmp_path, tmp_path
    )
    assert client.asked == ["mute", "talks"]
    assert found[0].refusal == "it refuses a short question: its template is broken"
    body = json.loads(found[1].request.read_text("utf-8"))
    assert (found[1].refusal, body["model"], body["max_tokens"]) == ("", "talks", 50)
    request = tmp_path / "talks.json"
    assert found[1].lines("http://r:1", " --router http://r:1") == [
        "capamesh chat talks --router http://r:1",
        f"curl http://r:1/v1/chat/completions -H 'Content-Type: application/json' -d @{request}",
    ]


@pytest.mark.parametrize(
    ("datatype", "shape", "is_asked"),
    [
        (Datatype.FP32, (-1, -1), False),
        (Datatype.FP32, (-1, 4), True),
        (Datatype.INT64, (-1, -1), True),
        (Datatype.BYTES, (-1, -1), True),
    ],
)
async def test_model_whose_sizes_can_only_be_guessed_is_sent_nothing(
    tmp_path: Path, datatype: Datatype, shape: tuple[int, ...], is_asked: bool
) -> None:
    client = FakeClient(inputs=[TensorSpec("X", datatype, shape)])
    (example,) = await tried_examples(cast(AsyncOperatorClient, client), ["m"], tmp_path, tmp_path)
    assert bool(client.asked) == is_asked
    sizes = ",".join(map(str, shape))
    assert example.refusal == (
        ""
        if is_asked
        else f"the sizes of its input 'X' cannot be made up: {datatype.value}[{sizes}]"
    )


@pytest.mark.parametrize(
    ("spec", "text", "expected"),
    [
        (FLOATS, "[[1, 2, 3], [4, 5, 6.5]]", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]),
        (FLOATS, "[1,2,3]", [[1.0, 2.0, 3.0]]),
        (TEXTS, '["a", "ä"]', [b"a", "ä".encode()]),
        (TEXTS, '"one"', [b"one"]),
        (TEXTS, "[]", []),
        (SCALAR, "-7", -7),
    ],
)
def test_json_takes_dtype_and_shape_from_the_model(
    spec: TensorSpec, text: str, expected: object
) -> None:
    tensor = parse_inputs([f"{spec.name}={text}"], model(spec))[spec.name]
    assert tensor.datatype is spec.datatype
    assert tensor.to_numpy().tolist() == expected


def test_wrong_forms_are_usage_errors() -> None:
    for texts in (["X"], ["=1"], ["X=[1,2,3]", "X=[1,2,3]"]):
        with pytest.raises(typer.BadParameter):
            parse_inputs(texts, model(FLOATS))
    with pytest.raises(
        typer.BadParameter, match=r"give the inputs of 'm', X FP32\[-1, 3\]: --input"
    ):
        parse_inputs([], model(FLOATS))


def test_files_are_arrays_or_json(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "x.json").write_text("[[0,1,2],[3,4,5]]")
    for file in ("x.npy", "x.json"):
        tensor = parse_inputs([f"X=@{tmp_path / file}"], model(FLOATS))["X"]
        np.testing.assert_array_equal(tensor.to_numpy(), rows)
    np.save(tmp_path / "b.npy", np.array([1.0, -2.0], np.float32))
    tensor = parse_inputs([f"B=@{tmp_path}/b.npy"], model(BRAIN))["B"]
    assert (tensor.datatype, tensor.to_numpy().tolist()) == (Datatype.BF16, [0x3F80, 0xC000])


def test_file_that_holds_no_array_of_the_model_s_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    np.save(tmp_path / "b.npy", np.zeros(3))
    cases = [("X=@{}/o.npy", FLOATS, "Python objects")]
    cases += [("X=@{}/x.npy", FLOATS, r"has shape .*is any size\)$")]
    cases += [("B=@{}/b.npy", BRAIN, r"has shape .*is any size\)$")]  # not its dtype is to blame
    for number, content in enumerate((b"", b"junk", b"\x93NUMPY\x01\x00")):
        for kind in ("npy", "npz"):
            (tmp_path / f"{number}.{kind}").write_bytes(content)
            cases += [(f"X=@{{}}/{number}.{kind}", FLOATS, "is no array that can be read")]
    for text, spec, why in cases:
        with pytest.raises(InvalidRequest, match=why) as refusal:
            parse_inputs([text.format(tmp_path)], model(spec))
        assert "allow_pickle" not in refusal.value.message


def test_parameter_is_what_json_says_or_else_text() -> None:
    values = {
        "7": 7,
        "1.5": 1.5,
        "true": True,
        "call-7": "call-7",
        '"7"': "7",
        "a=b": "a=b",
        "": "",
    }
    for text, value in {**values, "NaN": "NaN", "[": "["}.items():
        found = parse_parameters([f"p={text}"])
        assert found == {"p": value}
        assert type(found["p"]) is type(value)
    for texts, said in (
        (["p"], "'p' is not NAME=VALUE"),
        (["=1"], "'=1' is not NAME=VALUE"),
        (["p=1", "p=2"], "parameter 'p' is given twice"),
        (["p=null"], "'p' is 'null'; a number, true, false or a text is expected"),
        (["timeout=5"], "give --timeout, in seconds, instead"),
        (["binary_data_output=true"], "leave it out"),
    ):
        with pytest.raises(typer.BadParameter, match=said):
            parse_parameters(texts)


def test_outputs_become_texts_and_a_large_one_a_short_preview() -> None:
    told = json_of("T", np.array([b"a", "ä".encode(), b"\xff"], dtype=object))
    assert (told["dtype"], told["data"]) == ("text", ["a", "ä", "\\xff"])
    assert json_of("S", np.array(3)) == {"name": "S", "dtype": "int64", "shape": [], "data": 3}
    assert preview(np.arange(4)) == "[0 1 2 3]"
    assert len(preview(np.zeros((100, 100, 100)))) < 4000
    assert preview(np.array([b"yes"], dtype=object)) == "['yes']"


async def test_example_that_its_model_refuses_is_known_as_such_and_a_sample_is_always_tried(
    tmp_path: Path,
) -> None:
    client = FakeClient(refuses="stateful", inputs=[TensorSpec("X", Datatype.FP32, (-1, 4))])
    examples = await tried_examples(
        cast(AsyncOperatorClient, client), ["plain", "stateful"], tmp_path, tmp_path
    )
    assert client.asked == ["plain", "stateful"]
    assert [(each.model, each.refusal, each.is_sample) for each in examples] == [
        ("plain", "", False),
        ("stateful", "it refuses one that is made up: this model keeps a state", False),
    ]
    np.savez(tmp_path / "m.npz", rows=np.ones((2, 7), np.float32))
    client = FakeClient(inputs=[TensorSpec("X", Datatype.FP32, (-1, -1))])
    (example,) = await tried_examples(
        cast(AsyncOperatorClient, client), ["m"], tmp_path / "examples", tmp_path
    )
    assert (client.asked, example.refusal, example.is_sample) == (["m"], "", True)
