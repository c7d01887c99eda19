"""A folder as Triton users have it, hosted by a worker's own parts: every model is prepared and answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import triton_models
from triton_models import EXAMPLES, file_start, write_examples, write_implicit, zero_start

from capamesh.node.engine import ModelEngine, Result, Work
from capamesh.node.onnx_backend import OnnxBackend
from capamesh.node.store import ModelSource, scan
from capamesh.node.worker.preparation import Preparation, Prepared
from capamesh.node.worker.profile_cache import ProfileCache
from capamesh.protocol.errors import CapameshError, InvalidRequest, ModelInvalid
from capamesh.protocol.links.calls import SequenceMark
from capamesh.protocol.tensors import Tensor


class Hosted:
    """One model version, prepared as a worker does it, whose requests run one after the other."""

    def __init__(self, source: ModelSource) -> None:
        backend = OnnxBackend()
        preparation = Preparation(backend, ProfileCache(None), circumstances={}, clock=_Clock())
        self.prepared: Prepared = preparation.prepare(source, lambda: backend.load(source))
        self.engine = ModelEngine(
            self.prepared.plan, source.manifest.rules, None, max_in_flight=100
        )

    def ask(self, mark: SequenceMark | None = None, **inputs: Any) -> dict[str, Any]:
        plan = self.engine.plan
        tensors = tuple(Tensor.from_numpy(name, np.array(one)) for name, one in inputs.items())
        completed = plan.completed(tensors, mark)
        self.prepared.loaded.validate(completed)
        answers: list[Result] = []
        work = Work(completed, (), lambda _, one: answers.append(one), arrived_s=0.0, sequence=mark)
        self.engine.submit(work, 0.0)
        batch = self.engine.take(1.0)
        assert batch is not None
        joined = plan.join(batch.works)
        outputs = self.prepared.loaded.run(joined, plan.wanted(batch.works))
        self.engine.finished(batch, plan.split(batch.works, outputs, joined), 1.0, run_s=0.001)
        (answer,) = answers
        if isinstance(answer, CapameshError):
            raise answer
        return {one.name: one.to_numpy() for one in answer}


class _Clock:
    """Time that goes on by a millisecond a look, so that nothing is measured for long."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


def hosted(folder: Path, name: str) -> Hosted:
    found = scan(folder)
    assert found.refused == ()
    return Hosted(next(source for source in found.models if source.name == name))


def number(value: int) -> Any:
    return np.array([[value]], np.int32)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder)
    return folder


def test_all_seven_examples_are_found_and_none_is_refused(examples: Path) -> None:
    found = scan(examples)
    assert found.refused == ()
    assert tuple(source.name for source in found.models) == EXAMPLES


def test_sums_and_differences_come_of_numbers_and_of_texts(examples: Path) -> None:
    a, b = np.arange(16).reshape(1, 16), np.ones((1, 16))
    for name, kind in (("simple", np.int32), ("simple_int8", np.int8)):
        answer = hosted(examples, name).ask(INPUT0=a.astype(kind), INPUT1=b.astype(kind))
        np.testing.assert_array_equal(answer["OUTPUT0"], a + 1)
        np.testing.assert_array_equal(answer["OUTPUT1"], a - 1)
    texts = np.array([[str(n) for n in range(16)]], object)
    answer = hosted(examples, "simple_string").ask(INPUT0=texts, INPUT1=texts)
    assert answer["OUTPUT0"].tolist() == [[str(2 * n).encode() for n in range(16)]]


@pytest.mark.parametrize(
    ("name", "picture", "shape", "scores"),
    [
        ("densenet_onnx", "data_0", (3, 224, 224), ("fc6_1", (1000,))),
        (
            "inception_onnx",
            "input:0",
            (299, 299, 3),
            ("InceptionV3/Predictions/Softmax:0", (1001,)),
        ),
    ],
)
def test_pictures_go_in_and_scores_come_out_in_the_shapes_of_the_configuration(
    examples: Path,
    name: str,
    picture: str,
    shape: tuple[int, ...],
    scores: tuple[str, tuple[int, ...]],
) -> None:
    model = hosted(examples, name)
    (given,) = model.prepared.plan.public_inputs
    assert given.shape == shape
    answer = model.ask(**{picture: np.ones(shape, np.float32)})
    assert answer[scores[0]].shape == scores[1]
    with pytest.raises(InvalidRequest):  # the model's own shape is not the callers'
        model.ask(**{picture: np.ones((1, *shape), np.float32)})


def test_a_model_with_control_inputs_learns_where_in_its_sequence_a_request_is(
    examples: Path,
) -> None:
    model = hosted(examples, "simple_dyna_sequence")
    assert [spec.name for spec in model.prepared.plan.public_inputs] == ["INPUT"]
    assert model.prepared.plan.is_batching  # sequences share runs
    first = model.ask(SequenceMark(1000, is_start=True), INPUT=number(11))
    middle = model.ask(SequenceMark(1000), INPUT=number(7))
    last = model.ask(SequenceMark(1000, is_end=True), INPUT=number(5))
    assert [one["OUTPUT"].item() for one in (first, middle, last)] == [12, 7, 1005]


def test_a_model_of_sequences_takes_no_request_without_one(examples: Path) -> None:
    model = hosted(examples, "simple_sequence")
    with pytest.raises(InvalidRequest, match="name the sequence with the parameter sequence_id"):
        model.ask(INPUT=number(1))
    assert model.ask(SequenceMark(1, is_start=True), INPUT=number(1))["OUTPUT"].item() == 2


def totals(model: Hosted, values: Sequence[int]) -> list[int]:
    return [
        model.ask(SequenceMark("s", is_start=at == 0), INPUT=number(value))["OUTPUT"].item()
        for at, value in enumerate(values)
    ]


def test_an_implicit_state_begins_as_the_configuration_says_and_goes_on(tmp_path: Path) -> None:
    write_implicit(tmp_path, "plain")
    write_implicit(tmp_path, "zero", zero_start())
    write_implicit(tmp_path, "filed", file_start(tmp_path, "filed", 100))
    assert totals(hosted(tmp_path, "plain"), [1, 2, 3]) == [1, 3, 6]
    assert totals(hosted(tmp_path, "zero"), [1, 2, 3]) == [1, 3, 6]
    assert totals(hosted(tmp_path, "filed"), [1, 2, 3]) == [101, 103, 106]


def test_a_declared_state_is_given_to_callers_and_others_are_not(tmp_path: Path) -> None:
    write_implicit(tmp_path, "hidden")
    write_implicit(tmp_path, "shown", is_shown=True)
    start = SequenceMark(1, is_start=True)
    assert list(hosted(tmp_path, "hidden").ask(start, INPUT=number(1))) == ["OUTPUT"]
    assert set(hosted(tmp_path, "shown").ask(start, INPUT=number(1))) == {"OUTPUT", "OUTPUT_STATE"}


def test_another_beginning_is_another_model_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    write_implicit(tmp_path, "m", file_start(tmp_path, "m", 100))
    (before,) = scan(tmp_path).models
    start = tmp_path / "m" / "initial_state" / "start.bin"
    start.write_bytes(np.array([7], np.int32).tobytes())
    (after,) = scan(tmp_path).models
    assert before.digest != after.digest
    start.write_bytes(b"12345")
    with pytest.raises(ModelInvalid, match=r"initial_state/start.bin has 5 bytes; the state") as no:
        hosted(tmp_path, "m")
    assert "has 4" in no.value.message
    start.unlink()
    (refused,) = scan(tmp_path).refused
    assert (refused.name, refused.versions) == ("m", ("1",))
    assert "start.bin" in refused.reason


def test_a_control_that_the_model_has_in_another_datatype_is_refused(tmp_path: Path) -> None:
    triton_models.write_examples(tmp_path)
    config = tmp_path / "simple_sequence" / "config.pbtxt"
    config.write_text(config.read_text().replace("int32_false_true", "fp32_false_true"))
    with pytest.raises(ModelInvalid, match="input 'START' is INT32, the configuration gives FP32"):
        hosted(tmp_path, "simple_sequence")


def test_a_gpu_is_given_its_own_file_and_other_devices_the_default(tmp_path: Path) -> None:
    triton_models.write_examples(tmp_path)
    version = tmp_path / "simple" / "1"
    (version / "model.onnx").rename(version / "cpu.onnx")
    (version / "t4.onnx").write_bytes((tmp_path / "simple_int8/1/model.onnx").read_bytes())
    config = tmp_path / "simple" / "config.pbtxt"
    more = 'default_model_filename: "cpu.onnx" cc_model_filenames { key: "7.5" value: "t4.onnx" }'
    config.write_text(f"{config.read_text()} {more}")

    def file(capability: str) -> str:
        found = scan(tmp_path, compute_capability=capability)
        return next(one.path.name for one in found.models if one.name == "simple")

    assert [file(one) for one in ("", "7.5", "8.6")] == ["cpu.onnx", "t4.onnx", "cpu.onnx"]
