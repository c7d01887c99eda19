"""`capamesh infer`: the values that it sends, the classes that it asks for, what it shows, and the examples of it that are printed."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from capamesh.cli import task_inputs
from capamesh.cli.example_requests import (
    TRIAL_LIMIT_S,
    WHOLE_SEQUENCE,
    tried_examples,
    write_example,
)
from capamesh.cli.input_values import parse_inputs
from capamesh.cli.output_values import json_of, preview
from capamesh.cli.parameter_values import parse_parameters
from capamesh.client import (
    ClassScore,
    Client,
    Datatype,
    ModelMetadata,
    Outputs,
    Tensor,
    TensorSpec,
    Timings,
)
from capamesh.client.answers import Answer, SampleWindow
from capamesh.client.arrays import tensor_from_lists
from capamesh.client.retries import DEFAULT_RETRIES
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import decode_request
from capamesh.protocol.tensors import split_elements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .conftest import Cli, Router

LABEL = TensorSpec("label", Datatype.INT64, (-1,))
SCORES = TensorSpec("scores", Datatype.FP32, (-1, 3))
FLOATS = TensorSpec("X", Datatype.FP32, (-1, 3))
TEXTS = TensorSpec("T", Datatype.BYTES, (-1,))
BRAIN = TensorSpec("B", Datatype.BF16, (2,))
SCALAR = TensorSpec("S", Datatype.INT64, ())
PEER = "12D3KooWabcdefgh12345678"
CAT, DOG = ClassScore(0.75, 1, "cat"), ClassScore(0.25, 0, "")
LINE = "infer m -i X=[[1,2,3]]"


def model(*inputs: TensorSpec) -> ModelMetadata:
    return ModelMetadata("m", ("1",), "onnxruntime_onnx", inputs, (LABEL, SCORES))


class Model:
    """A model whose node answers with one array, and classes where some were asked for."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.asked: dict[str, Any] = {}
        self.inputs: Any = None
        self.classes = [[CAT, DOG]]
        self.answer: dict[str, Any] = {"timings": Timings(0.0, 0.25, 0.5)}
        """How an answer differs from others."""
        self.is_for("text-classification")
        router.bodies[f"/v1/nodes/{PEER}"] = {"name": "gpu-1"}

    def is_for(self, task: str | None) -> None:
        self._router.bodies["/v1/models/m"] = {"task": task}

    def infer(self, _: str, inputs: object, **options: Any) -> Outputs:
        self.asked, self.inputs = options, inputs
        names = options["outputs"] or list(options["classes"]) or ["label", "scores"]
        return Outputs(
            {name: np.array([7]) for name in names},
            node=PEER,
            version="1",
            classes=dict.fromkeys(options["classes"], self.classes),
            id=options["id"],
            **self.answer,
        )

    @property
    def wanted(self) -> tuple[Any, Any]:
        """The outputs that were asked for, and of which classes."""
        return self.asked["outputs"], self.asked["classes"]

    @property
    def rows(self) -> tuple[str, list[bytes]]:
        """The input that was sent, and its elements."""
        ((name, tensor),) = self.inputs.items()
        assert tensor.datatype is Datatype.BYTES
        return name, split_elements(tensor.data, tensor.shape[0])


@pytest.fixture
def served(router: Router, monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Model(router)
    monkeypatch.setattr(Client, "metadata", lambda *_: model(FLOATS))
    monkeypatch.setattr(Client, "infer", lambda _, *args, **more: made.infer(*args, **more))
    return made


# outputs and classes


def test_outputs_are_shown_and_the_best_classes_where_they_are_asked_for(
    served: Model, cli: Cli
) -> None:
    cli(LINE)
    assert served.wanted == (None, {})
    said = cli(f"{LINE} --top 2")
    assert served.wanted == (["label", "scores"], {"scores": 2})
    assert said.lines == [
        "OUTPUT DTYPE SHAPE VALUES",
        "label int64 [1] [7]",
        "",
        "OUTPUT ROW LABEL SCORE CLASS",
        "scores 0 cat 0.75 1",
        "scores 0 - 0.25 0",
    ]
    assert said.err == "by gpu-1 (…12345678), version 1\n"
    assert cli(f"{LINE} --top 2 -o scores").lines[-3] == "OUTPUT ROW LABEL SCORE CLASS"
    found = cli(f"{LINE} --top 2 --json").json
    label, scores = found["outputs"]
    assert (found["node"], label["name"], label["data"]) == (PEER, "label", [7])
    cat, other = (
        {"score": 0.75, "index": 1, "label": "cat"},
        {"score": 0.25, "index": 0, "label": ""},
    )
    assert scores == {"name": "scores", "classes": [[cat, other]]}


def test_top_of_outputs_without_scores_is_a_usage_error(served: Model, cli: Cli) -> None:
    said = cli(f"{LINE} --top 3 -o label", status=2).err
    assert "there are no scores in label INT64[-1]" in " ".join(said.split())
    for wrong in ("--top 0", "--priority 0", "--priority 256", "--retries 21"):
        cli(f"{LINE} {wrong}", status=2)
    assert served.asked == {}


def test_outputs_become_texts_and_a_large_one_a_short_preview() -> None:
    told = json_of("T", np.array([b"a", "ä".encode(), b"\xff"], dtype=object))
    assert (told["dtype"], told["data"]) == ("text", ["a", "ä", "\\xff"])
    assert json_of("S", np.array(3)) == {"name": "S", "dtype": "int64", "shape": [], "data": 3}
    assert preview(np.arange(4)) == "[0 1 2 3]"
    assert len(preview(np.zeros((100, 100, 100)))) < 4000
    assert preview(np.array([b"yes"], dtype=object)) == "['yes']"


def test_json_that_infer_prints_is_an_input_of_the_next_infer(
    served: Model, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """NaN and infinities included, which JSON has no numbers for."""

    def never(literal: str) -> NoReturn:
        raise AssertionError(f"{literal} is not JSON")

    values = np.array([[1.5, np.nan, np.inf], [-np.inf, 0, -2]], np.float32)
    text = '[[1.5,"NaN","Infinity"],["-Infinity",0.0,-2.0]]'
    for given_back, value in ((None, "[1,2,3]"), ("X", text)):
        monkeypatch.setattr(
            Client,
            "infer",
            lambda _, _model, inputs, given_back=given_back, **__: Outputs(
                {"Y": inputs[given_back].to_numpy() if given_back else values}
            ),
        )
        out = cli("infer m --json -i", f"X={value}").out
        (output,) = json.loads(out, parse_constant=never)["outputs"]
        assert output["data"] == json.loads(text)


# texts, pictures and files


def test_texts_are_classified_and_shown_by_their_beginning(
    served: Model, cli: Cli, tmp_path: Path
) -> None:
    served.classes = [[CAT], [DOG]]
    long = "a long text " * 9
    (tmp_path / "a.txt").write_text(long)
    first, second = cli("infer m --text good", tmp_path / "a.txt").lines[1:]
    assert served.rows == ("text", [b"good", long.encode()])
    assert served.wanted == (None, {"scores": 3})
    assert first == "scores good cat 0.75 1"
    assert second.endswith("a.txt - 0.25 0")
    shown = cli("infer m --text good -t", long).lines[2]
    assert shown == "scores a long text a long text a long text a l… - 0.25 0"


def test_model_gets_what_its_task_takes_and_a_large_file_by_both_ends(
    served: Model, cli: Cli, tmp_path: Path
) -> None:
    served.is_for("text-embedding")
    cli("infer m --text cat")
    assert served.wanted == (["embedding", "tokens"], {})
    served.is_for("image-classification")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    found = cli("infer m --json", tmp_path / "a.png").json
    assert (served.rows, found["rows"]) == (("image", [b"\x89PNG"]), [str(tmp_path / "a.png")])
    served.is_for("file-type")
    (tmp_path / "large").write_bytes(b"a" * 70_000 + b"m" * 70_000 + b"z" * 70_000)
    cli("infer m", tmp_path / "large")
    assert served.rows == ("file", [b"a" * 65_536 + b"z" * 65_536])


def test_line_that_does_not_fit_the_task_is_refused(served: Model, cli: Cli) -> None:
    for task, line, status, told in (
        (None, "--text a", 2, "model 'm' takes tensors alone"),
        ("chat", "--text a", 2, "model 'm' is for 'chat', which this command does not know"),
        ("file-type", "--text a", 2, "model 'm' is for file-type: name files instead"),
        ("file-type", "--text a -i X=[[1,2]]", 2, "give tensors, or texts and files"),
        ("file-type", "/nowhere/at/all", 1, "cannot read /nowhere/at/all: No such file"),
        ("text-embedding", "--text a --top 3", 2, "there are no scores in"),
    ):
        served.is_for(task)
        assert told in " ".join(cli(f"infer m {line}", status=status).err.split())
    assert served.asked == {}


def test_file_that_no_model_takes_is_not_sent(
    served: Model, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_inputs, "MAX_FILE_BYTES", 3)
    for content, status in ((b"abc", 0), (b"abcd", 1)):
        served.asked.clear()
        (tmp_path / "a").write_bytes(content)
        cli("infer m", tmp_path / "a", status=status)
        assert bool(served.asked) is (status == 0)


# what goes with a request, and which node answered


def test_options_of_a_request_are_arguments_of_the_sdk(
    served: Model, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cli(f"{LINE} --priority 1 --id r1 --idempotency-key k1 --json").json
    asked = served.asked
    assert (asked["priority"], asked["id"], asked["idempotency_key"]) == (1, "r1", "k1")
    assert (found["id"], found["parameters"], found["cache"]) == ("r1", {}, "")
    timings = {"connect_s": 0.0, "wait_s": 0.25, "receive_s": 0.5, "attempts": 1}
    assert found["timings"] == timings
    made: list[int] = []
    begin = Client.__init__

    def note(self: Client, *args: Any, **options: Any) -> None:
        made.append(options["retries"])
        begin(self, *args, **options)

    monkeypatch.setattr(Client, "__init__", note)
    served.answer["timings"] = Timings(0.0, 0.25, 0.5, attempts=3)
    said = cli(f"{LINE} --retries 5").err
    assert said == "by gpu-1 (…12345678), version 1; sent 3 times\n"
    cli(LINE)
    assert made == [5, DEFAULT_RETRIES]


def test_node_is_called_by_its_name_where_it_is_to_be_had(
    served: Model, router: Router, cli: Cli
) -> None:
    replica = {"peer_id": PEER, "address": "a:1", "is_chosen": True}
    explanation = {"model": "m", "version": "1", "policy": "p2c", "replicas": [replica]}
    served.answer |= {"cache": "hit", "age_s": 7.0, "explanation": explanation}
    nobody = Answer(403, b"a proxy lets nobody see this")
    for told, shown in (
        ({"name": "gpu-1"}, "gpu-1 (…12345678)"),
        ({"name": ""}, PEER),
        (nobody, PEER),
    ):
        router.bodies[f"/v1/nodes/{PEER}"] = told
        assert cli(f"{LINE} --explain").err.splitlines()[:2] == [
            f"by {shown}, version 1; hit, of 7 s ago",
            f"A request for m/1 would go to {shown} at a:1: no other node hosts the model.",
        ]


# values on the command line


def test_json_takes_dtype_and_shape_from_the_model() -> None:
    for spec, text, expected in (
        (FLOATS, "[[1, 2, 3], [4, 5, 6.5]]", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]),
        (FLOATS, "[1,2,3]", [[1.0, 2.0, 3.0]]),
        (TEXTS, '["a", "ä"]', [b"a", "ä".encode()]),
        (TEXTS, '"one"', [b"one"]),
        (TEXTS, "[]", []),
        (SCALAR, "-7", -7),
    ):
        tensor = parse_inputs([f"{spec.name}={text}"], model(spec))[spec.name]
        assert (tensor.datatype, tensor.to_numpy().tolist()) == (spec.datatype, expected)


def test_value_that_does_not_fit_says_why() -> None:
    for text, why in (
        ("X=[[1,2]]", r"shape \[1, 2\], the model takes \[-1, 3\]"),
        ("X=[[1,2,3],[4,5]]", "value of 'X': .*rows differ in length: row 1 has 3, row 2 has 2"),
        ("X=[[1,2,3],[1,2,3],[]]", "row 1 has 3, row 3 has 0"),
        ("X=[[[1],[2,3]]]", "row 1 has 1, row 2 has 2"),
        ('X=[["a",2,3]]', "must be a number"),
        ("X=[[1,2,NaN]]", r"NaN is not JSON, use a \.npy file"),
        ("X=hello", "text needs its quotes"),
        ("Y=1", r"has no input 'Y'; its inputs: X FP32\[-1, 3\]"),
        ("X=@/absent.npy", "cannot read /absent.npy for input 'X': No such file"),
        ("X=" + "[" * 5000, "JSON|dimension|shape"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            parse_inputs([text], model(FLOATS))


def test_wrong_forms_are_usage_errors() -> None:
    for texts in (["X"], ["=1"], ["X=[1,2,3]", "X=[1,2,3]"]):
        with pytest.raises(typer.BadParameter):
            parse_inputs(texts, model(FLOATS))
    said = r"give the inputs of 'm', X FP32\[-1, 3\]: --input"
    with pytest.raises(typer.BadParameter, match=said):
        parse_inputs([], model(FLOATS))


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


def test_files_are_arrays_or_json_cast_only_when_that_is_asked_for(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "x.json").write_text("[[0,1,2],[3,4,5]]")
    np.savez(tmp_path / "one.npz", rows=rows)
    np.savez(tmp_path / "more.npz", X=rows, Y=np.zeros(1))
    for file in ("x.npy", "x.json", "one.npz", "more.npz"):
        tensor = parse_inputs([f"X=@{tmp_path / file}"], model(FLOATS))["X"]
        np.testing.assert_array_equal(tensor.to_numpy(), rows)
    np.save(tmp_path / "b.npy", np.array([1.0, -2.0], np.float32))
    tensor = parse_inputs([f"B=@{tmp_path}/b.npy"], model(BRAIN))["B"]
    assert (tensor.datatype, tensor.to_numpy().tolist()) == (Datatype.BF16, [0x3F80, 0xC000])
    wide = np.array([[1.5, np.nan, -np.inf]])
    np.save(tmp_path / "wide.npy", wide)
    text = f"X=@{tmp_path}/wide.npy"
    said = r"tensor 'X' is FP64, the model takes FP32; .*astype\(np\.float32\), or here with --cast"
    with pytest.raises(InvalidRequest, match=said):
        parse_inputs([text], model(FLOATS))
    tensor = parse_inputs([text], model(FLOATS), is_cast=True)["X"]
    np.testing.assert_array_equal(tensor.to_numpy(), wide.astype(np.float32))


def test_file_that_holds_no_array_of_the_model_s_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    np.save(tmp_path / "b.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", a=np.zeros(1), b=np.zeros(1))
    request = write_example(tmp_path, model(FLOATS), tmp_path / "absent.npz").request
    cases = [
        ("o.npy", FLOATS, "Python objects"),
        ("x.npy", FLOATS, r"has shape .*is any size\)$"),
        ("b.npy", BRAIN, r"has shape .*is any size\)$"),  # not its dtype is to blame
        ("other.npz", FLOATS, "has 2 arrays and none is named 'X': a, b; save one"),
        (request.name, FLOATS, rf"a whole inference request.* 'X'.*infer -d @{request}"),
    ]
    for number, content in enumerate((b"", b"junk", b"\x93NUMPY\x01\x00")):
        for kind in ("npy", "npz"):
            (tmp_path / f"{number}.{kind}").write_bytes(content)
            cases.append((f"{number}.{kind}", FLOATS, "is no array that can be read"))
    for file, spec, why in cases:
        with pytest.raises(InvalidRequest, match=why) as refusal:
            parse_inputs([f"{spec.name}=@{tmp_path / file}"], model(spec))
        assert "allow_pickle" not in refusal.value.message


def test_parameter_is_what_json_says_or_else_text() -> None:
    for text, value in {
        "7": 7,
        "1.5": 1.5,
        "true": True,
        '"7"': "7",
        **{text: text for text in ("call-7", "a=b", "", "NaN", "[")},
    }.items():
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


# examples


def test_example_is_a_request_that_the_model_takes(tmp_path: Path) -> None:
    wanted = model(FLOATS, TEXTS, BRAIN, SCALAR)
    example = write_example(tmp_path, wanted, tmp_path / "absent.npz")
    request = decode_request("m", "", example.request.read_bytes(), None)
    for spec, tensor in zip(wanted.inputs, request.inputs, strict=True):
        assert spec.accepts(tensor.datatype, tensor.shape) is None
    assert json.loads(example.request.read_text())["inputs"][1]["data"] == ["text"]
    assert f"--input X=@{tmp_path}/m-0.npy" in example.infer_options
    assert """--input 'T=["text"]'""" in example.infer_options
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "case.npz", rows=rows)
    for columns, value in ((3, rows[:1]), (4, np.zeros((1, 4), np.float32))):
        spec = TensorSpec("X", Datatype.FP32, (-1, columns))
        write_example(tmp_path, model(spec), tmp_path / "case.npz")
        np.testing.assert_array_equal(np.load(tmp_path / "m-0.npy"), value)


def test_example_of_a_model_with_a_window_is_one_and_what_its_manifest_gives(
    tmp_path: Path,
) -> None:
    window = SampleWindow("X", 4, 2, 16_000, {"sr": 16_000})
    sound, rate = TensorSpec("X", Datatype.FP32, (-1, -1)), TensorSpec("sr", Datatype.INT64, ())
    wanted = replace(model(sound, rate), window=window)
    made = write_example(tmp_path, wanted, tmp_path / "absent.npz")
    assert [each.to_numpy().tolist() for each in made.inputs] == [[[0.0] * 6], 16_000]
    rows = np.ones((2, 6), np.float32)
    np.savez(tmp_path / "case.npz", rows=rows)
    made = write_example(tmp_path, wanted, tmp_path / "case.npz")
    assert [each.to_numpy().tolist() for each in made.inputs] == [[[1.0] * 6], 16_000]
    assert made.is_sample


class Taking:
    """A client whose model takes what fits it, but for the one that refuses."""

    def __init__(self, *, refuses: str = "", inputs: Sequence[TensorSpec] = (FLOATS,)) -> None:
        self.refuses = refuses
        self.inputs = inputs
        self.asked: list[str] = []

    async def metadata(self, name: str) -> ModelMetadata:
        return replace(model(*self.inputs), name=name)

    async def tasks(self) -> dict[str, str]:
        return {"talks": "chat", "mute": "chat", "plain": ""}

    async def config(self, name: str) -> dict[str, Any]:
        return {"sequence_batching": {}} if name == "vad" else {}

    async def chat(self, name: str, _: str, *, max_tokens: int, timeout_s: float) -> None:
        assert (max_tokens, timeout_s) == (1, TRIAL_LIMIT_S)
        self._take(name)

    async def infer(
        self, name: str, inputs: dict[str, Tensor], *, timeout_s: float, parameters: object
    ) -> None:
        assert (list(inputs), timeout_s) == (["X"], TRIAL_LIMIT_S)
        assert parameters == (WHOLE_SEQUENCE if name == "vad" else {})
        self._take(name)

    def _take(self, name: str) -> None:
        self.asked.append(name)
        if name == self.refuses:
            raise InvalidRequest("no, thanks")

    async def tried(self, folder: Path, *names: str) -> Any:
        return await tried_examples(self, names, folder, folder)  # type: ignore[arg-type]


async def test_example_of_a_model_that_keeps_states_is_a_whole_sequence(tmp_path: Path) -> None:
    client = Taking()
    (example,) = await client.tried(tmp_path, "vad")
    assert (client.asked, example.refusal) == (["vad"], "")
    assert example.infer_options == (
        f"--input X=@{tmp_path}/vad-0.npy -p sequence_id=990001 -p sequence_start=true -p sequence_end=true"
    )
    request = decode_request("vad", "", example.request.read_bytes(), None)
    assert dict(request.parameters) == dict(WHOLE_SEQUENCE)


async def test_example_of_a_model_for_chat_is_a_question_and_a_refused_one_known_as_such(
    tmp_path: Path,
) -> None:
    client = Taking(refuses="mute")
    mute, talks = await client.tried(tmp_path, "mute", "talks")
    assert client.asked == ["mute", "talks"]
    assert mute.refusal == "it refuses a short question: no, thanks"
    (stateful,) = await Taking(refuses="stateful").tried(tmp_path, "stateful")
    said = (stateful.model, stateful.refusal, stateful.is_sample)
    assert said == ("stateful", "it refuses one that is made up: no, thanks", False)
    body = json.loads(talks.request.read_text("utf-8"))
    assert (talks.refusal, body["model"], body["max_tokens"]) == ("", "talks", 50)
    assert talks.lines("http://r:1", " --router http://r:1") == [
        "capamesh chat talks --router http://r:1",
        "curl http://r:1/v1/chat/completions -H 'Content-Type: application/json' "
        f"-d @{tmp_path / 'talks.json'}",
    ]


async def test_model_whose_sizes_can_only_be_guessed_is_sent_nothing_but_a_sample(
    tmp_path: Path,
) -> None:
    unknown = "the sizes of its input 'X' cannot be made up: FP32[-1,-1]"
    for datatype, shape, refusal in (
        (Datatype.FP32, (-1, 4), ""),
        (Datatype.INT64, (-1, -1), ""),
        (Datatype.BYTES, (-1, -1), ""),
        (Datatype.FP32, (-1, -1), unknown),
    ):
        client = Taking(inputs=[TensorSpec("X", datatype, shape)])
        (example,) = await client.tried(tmp_path, "m")
        assert (example.refusal, client.asked) == (refusal, [] if refusal else ["m"])
        assert example.request.exists() is not bool(refusal)
    np.savez(tmp_path / "m.npz", rows=np.ones((2, 7), np.float32))
    (example,) = await client.tried(tmp_path, "m")
    assert (client.asked, example.refusal, example.is_sample) == (["m"], "", True)
