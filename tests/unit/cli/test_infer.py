"""`capamesh infer`: the classes that it asks for and shows, and what it calls the node."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capamesh.cli import task_inputs
from capamesh.cli.__main__ import run
from capamesh.cli.class_table import class_notes, class_rows, classes_json
from capamesh.cli.operator_client import OperatorClient
from capamesh.client import (
    ClassScore,
    Client,
    Datatype,
    ModelMetadata,
    Outputs,
    TensorSpec,
    Timings,
)
from capamesh.client.answers import Answer
from capamesh.client.asks import Ask
from capamesh.client.retries import DEFAULT_RETRIES
from capamesh.protocol.tensors import split_elements

X = TensorSpec("X", Datatype.FP32, (-1, 2))
LABEL = TensorSpec("label", Datatype.INT64, (-1,))
SCORES = TensorSpec("scores", Datatype.FP32, (-1, 3))
MODEL = ModelMetadata("m", ("1",), "onnxruntime_onnx", (X,), (LABEL, SCORES))
PEER = "12D3KooWabcdefgh12345678"
CAT, DOG = ClassScore(0.75, 1, "cat"), ClassScore(0.25, 0, "")
LINE = ["infer", "m", "-i", "X=[[1,2]]"]


class FakeRouter:
    """Answers inferences with one array and classes where some were asked for, and says the node's name or not."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.classes = [[CAT, DOG]]
        self.name: str | None = "gpu-1"
        self.task: str | None = "text-classification"
        self.inputs: Any = None
        self.explanation: dict[str, Any] | None = None
        self.timings = Timings(0.0, 0.25, 0.5)
        self.cache = ""

    def infer(self, model: str, inputs: object, **options: Any) -> Outputs:
        self.asked = options
        self.inputs = inputs
        names = options["outputs"] or list(options["classes"]) or ["label", "scores"]
        return Outputs(
            {name: np.array([7]) for name in names},
            node=PEER,
            version="1",
            explanation=self.explanation,
            classes=dict.fromkeys(options["classes"], self.classes),
            id=options["id"],
            timings=self.timings,
            cache=self.cache,
            age_s=7.0,
        )

    def exchange(self, ask: Ask[Any]) -> object:
        if ask.path == "/v1/models/m":
            return ask.read(Answer(200, json.dumps({"task": self.task}).encode()), "http://router")
        assert (ask.method, ask.path) == ("GET", f"/v1/nodes/{PEER}")
        if self.name is None:
            return ask.read(Answer(403, b"a proxy lets nobody see this"), "http://router")
        return ask.read(Answer(200, json.dumps({"name": self.name}).encode()), "http://router")


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> FakeRouter:
    for name in ("CAPAMESH_ROUTER", "CAPAMESH_DATA"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeRouter()
    monkeypatch.setattr(Client, "metadata", lambda *_: MODEL)
    monkeypatch.setattr(Client, "infer", lambda _, *args, **more: fake.infer(*args, **more))
    monkeypatch.setattr(OperatorClient, "_exchange", lambda _, ask: fake.exchange(ask))
    return fake


def _unpadded(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


Said = Callable[[], tuple[list[str], list[str]]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Return the lines on standard output and on standard error, without padding."""

    def lines() -> tuple[list[str], list[str]]:
        out, err = capsys.readouterr()
        return _unpadded(out), _unpadded(err)

    return lines


# which outputs


def test_top_of_outputs_without_scores_is_a_usage_error(router: FakeRouter, said: Said) -> None:
    assert run([*LINE, "--top", "3", "-o", "label"]) == 2
    assert "there are no scores in label INT64[-1]" in " ".join(said()[1])
    assert run([*LINE, "--top", "0"]) == 2
    assert router.asked == {}
    assert run(LINE) == 0
    assert (router.asked["outputs"], router.asked["classes"]) == (None, {})
    assert run([*LINE, "--top", "2", "-o", "scores"]) == 0
    assert said()[0][-3] == "OUTPUT ROW LABEL SCORE CLASS"


# what is shown


def test_top_shows_the_other_outputs_and_a_table_of_classes(router: FakeRouter, said: Said) -> None:
    assert run([*LINE, "--top", "2"]) == 0
    assert router.asked["outputs"] == ["label", "scores"]
    assert router.asked["classes"] == {"scores": 2}
    assert said() == (
        [
            "OUTPUT DTYPE SHAPE VALUES",
            "label int64 [1] [7]",
            "",
            "OUTPUT ROW LABEL SCORE CLASS",
            "scores 0 cat 0.75 1",
            "scores 0 - 0.25 0",
        ],
        ["by gpu-1 (…12345678), version 1"],
    )


def test_json_has_the_classes_in_the_place_of_the_array(
    router: FakeRouter, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*LINE, "--top", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["node"] == PEER
    assert [output["name"] for output in found["outputs"]] == ["label", "scores"]
    assert found["outputs"][0]["data"] == [7]
    assert found["outputs"][1] == {
        "name": "scores",
        "classes": [
            [
                {"score": 0.75, "index": 1, "label": "cat"},
                {"score": 0.25, "index": 0, "label": ""},
            ]
        ],
    }


# texts, pictures and files


def rows_of(router: FakeRouter) -> tuple[str, list[bytes]]:
    ((name, tensor),) = router.inputs.items()
    assert tensor.datatype is Datatype.BYTES
    return name, split_elements(tensor.data, tensor.shape[0])


def test_texts_are_classified_and_shown_by_their_beginning(
    router: FakeRouter, said: Said, tmp_path: Path
) -> None:
    router.classes = [[CAT], [DOG]]
    (tmp_path / "a.txt").write_text("a long text " * 9)
    assert run(["infer", "m", "--text", "good", str(tmp_path / "a.txt")]) == 0
    assert rows_of(router) == ("text", [b"good", b"a long text " * 9])
    assert router.asked["outputs"] is None
    assert router.asked["classes"] == {"scores": 3}
    first, second = said()[0][1:]
    assert first == "scores good cat 0.75 1"
    assert second.endswith("a.txt - 0.25 0")
    assert run(["infer", "m", "--text", "good", "-t", "a long text " * 9]) == 0
    assert said()[0][2] == "scores a long text a long text a long text a l… - 0.25 0"


def test_embedding_shows_the_vector_and_its_tokens(router: FakeRouter) -> None:
    router.task = "text-embedding"
    assert run(["infer", "m", "--text", "cat"]) == 0
    assert router.asked["outputs"] == ["embedding", "tokens"]
    assert router.asked["classes"] == {}


def test_picture_is_sent_as_its_file_has_it(
    router: FakeRouter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    router.task = "image-classification"
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert run(["infer", "m", str(tmp_path / "a.png"), "--json"]) == 0
    assert rows_of(router) == ("image", [b"\x89PNG"])
    assert json.loads(capsys.readouterr().out)["rows"] == [str(tmp_path / "a.png")]


def test_large_file_is_sent_by_both_ends(router: FakeRouter, tmp_path: Path) -> None:
    router.task = "file-type"
    path = tmp_path / "large"
    path.write_bytes(b"a" * 70_000 + b"m" * 70_000 + b"z" * 70_000)
    assert run(["infer", "m", str(path)]) == 0
    assert rows_of(router) == ("file", [b"a" * 65_536 + b"z" * 65_536])


@pytest.mark.parametrize(
    ("task", "line", "status", "told"),
    [
        (None, ["--text", "a"], 2, "model 'm' takes tensors alone"),
        ("chat", ["--text", "a"], 2, "model 'm' is for 'chat', which this command does not know"),
        ("file-type", ["--text", "a"], 2, "model 'm' is for file-type: name files instead"),
        ("file-type", ["--text", "a", "-i", "X=[[1,2]]"], 2, "give tensors, or texts and files"),
        ("file-type", ["/nowhere/at/all"], 1, "cannot read /nowhere/at/all: No such file"),
        ("text-embedding", ["--text", "a", "--top", "3"], 2, "there are no scores in"),
    ],
)
def test_line_that_does_not_fit_the_task_is_refused(
    router: FakeRouter, said: Said, task: str | None, line: list[str], status: int, told: str
) -> None:
    router.task = task
    assert run(["infer", "m", *line]) == status
    assert told in " ".join(said()[1])
    assert router.asked == {}


# what goes with a request


def test_options_of_a_request_are_arguments_of_the_sdk(
    router: FakeRouter, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*LINE, "--priority", "1", "--id", "r1", "--idempotency-key", "k1", "--json"]
    assert run(line) == 0
    asked = router.asked
    assert (asked["priority"], asked["id"], asked["idempotency_key"]) == (1, "r1", "k1")
    found = json.loads(capsys.readouterr().out)
    assert (found["id"], found["parameters"], found["cache"]) == ("r1", {}, "")
    assert found["timings"] == {
        "connect_s": 0.0,
        "wait_s": 0.25,
        "receive_s": 0.5,
        "attempts": 1,
    }
    for wrong in (["--priority", "0"], ["--priority", "256"], ["--retries", "21"]):
        assert run([*LINE, *wrong]) == 2


def test_retries_are_the_client_s_and_those_that_were_needed_are_told(
    router: FakeRouter, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    begin = Client.__init__

    def note(self: Client, *args: Any, **options: Any) -> None:
        made.append(options["retries"])
        begin(self, *args, **options)

    monkeypatch.setattr(Client, "__init__", note)
    router.timings = Timings(0.0, 0.25, 0.5, attempts=3)
    assert run([*LINE, "--retries", "5"]) == 0
    assert run(LINE) == 0
    assert made == [5, DEFAULT_RETRIES]
    assert said()[1][0] == "by gpu-1 (…12345678), version 1; sent 3 times"


# the node


def test_classes_are_shown_for_the_first_rows_with_what_they_lack() -> None:
    classes = {"y": [[CAT]] * 12}
    assert len(class_rows(classes)) == 10
    assert class_notes(classes) == ["y: the first 10 of 12 rows are shown; give --json for all"]
    assert class_notes({"y": [[DOG]], "z": [[CAT, DOG]], "none": [[]]}) == [
        "y: its node has no names for these classes; labels.txt in the model's folder gives them"
    ]
    scores = [ClassScore(value, 0, "") for value in (math.nan, math.inf, -math.inf)]
    (row,) = classes_json("y", [scores])["classes"]  # type: ignore[misc]
    assert [one["score"] for one in row] == ["NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize(
    ("name", "shown"), [("gpu-1", "gpu-1 (…12345678)"), ("", PEER), (None, PEER)]
)
def test_node_is_called_by_its_name_where_it_is_to_be_had(
    router: FakeRouter, said: Said, name: str | None, shown: str
) -> None:
    router.name, router.cache = name, "hit"
    replica = {"peer_id": PEER, "address": "a:1", "is_chosen": True}
    router.explanation = {"model": "m", "version": "1", "policy": "p2c", "replicas": [replica]}
    assert run([*LINE, "--explain"]) == 0
    assert said()[1][:2] == [
        f"by {shown}, version 1; hit, of 7 s ago",
        f"A request for m/1 would go to {shown} at a:1: no other node hosts the model.",
    ]


def test_file_that_no_model_takes_is_not_sent(
    router: FakeRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_inputs, "MAX_FILE_BYTES", 3)
    for content, status in ((b"abc", 0), (b"abcd", 1)):
        router.asked.clear()
        (tmp_path / "a").write_bytes(content)
        assert run(["infer", "m", str(tmp_path / "a")]) == status
        assert bool(router.asked) is (status == 0)
