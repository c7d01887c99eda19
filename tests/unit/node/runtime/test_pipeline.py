"""A chain of models served as one, over models that are functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from typing_extensions import override
from worker_fakes import FakeModel

from capamesh.node.repository.rules import PipelineStep
from capamesh.node.runtime.api import LoadedModel, StopSwitch
from capamesh.node.runtime.pipeline import MAX_STEPS, PipelineModel
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, ModelUnavailable
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

Array = np.ndarray
NAME, VERSION = ModelName("p"), ModelVersion("1")


def fp32(name: str, shape: tuple[int, ...] = (-1,)) -> TensorSpec:
    return TensorSpec(name, Datatype.FP32, shape)


def tensor(name: str, *values: float) -> Tensor:
    return Tensor.from_numpy(name, np.array(values, np.float32))


class Model(FakeModel):
    """`function` takes and gives arrays in declared order."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        function: Callable[..., Sequence[Array]],
    ) -> None:
        super().__init__(tuple(inputs), tuple(outputs))
        self.function = function
        self.asked: list[tuple[str, ...]] = []

    @override
    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        self.asked.append(tuple(outputs))
        results = self.function(*(given.to_numpy() for given in inputs))
        named = {
            spec.name: Tensor.from_numpy(spec.name, array)
            for spec, array in zip(self.outputs, results, strict=True)
        }
        return [named[name] for name in outputs]

    @override
    def close(self) -> None:
        raise AssertionError("a pipeline must not close what it does not own")


def double() -> Model:
    return Model([fp32("x")], [fp32("y")], lambda x: [x * 2])


def add() -> Model:
    return Model([fp32("a"), fp32("b")], [fp32("sum")], lambda a, b: [a + b])


def split() -> Model:
    return Model([fp32("x")], [fp32("low"), fp32("high")], lambda x: [x - 1, x + 1])


def step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> PipelineStep:
    return PipelineStep(model, "", tuple(inputs.items()), tuple(outputs.items()))


def pipeline(
    steps: Sequence[PipelineStep],
    *,
    name: ModelName = NAME,
    version: ModelVersion = VERSION,
    **models: LoadedModel,
) -> PipelineModel:
    return PipelineModel(name, version, steps, lambda model, _: models.get(model))


def test_name_may_feed_several_steps_and_only_what_none_takes_is_an_output() -> None:
    chain = pipeline(
        [
            step("split", {"x": "in"}, {"low": "l", "high": "h"}),
            step("double", {"x": "l"}, {"y": "l2"}),
            step("add", {"a": "l", "b": "in"}, {"sum": "s"}),
        ],
        split=split(),
        double=double(),
        add=add(),
    )
    assert [spec.name for spec in chain.outputs] == ["h", "l2", "s"]
    assert chain.run([tensor("in", 5)]) == [tensor("h", 6), tensor("l2", 8), tensor("s", 9)]
    assert chain.run([tensor("in", 5)], ["s", "h"]) == [tensor("s", 9), tensor("h", 6)]
    with pytest.raises(InvalidRequest, match="the model has no output 'l'"):
        chain.validate([tensor("in", 5)], ["l"])


def test_steps_and_outputs_are_computed_only_where_asked_for() -> None:
    first, second, third = split(), double(), double()
    chain = pipeline(
        [
            step("first", {"x": "in"}, {"low": "l", "high": "h"}),
            step("second", {"x": "l"}, {"y": "l2"}),
            step("third", {"x": "h"}, {"y": "h2"}),
        ],
        first=first,
        second=second,
        third=third,
    )
    assert chain.run([tensor("in", 5)], ["h2"]) == [tensor("h2", 12)]
    assert (first.asked, second.asked, third.asked) == ([("high",)], [], [("y",)])


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ([step("double", {"x": "a"}, {"y": "b"})] * (MAX_STEPS + 1), "a pipeline of 65 steps"),
        ([PipelineStep("absent", "3", (("x", "a"),), (("y", "b"),))], "step 1: model absent/3"),
        ([step("double", {"z": "a"}, {"y": "b"})], "step 1 (double): the model has no input 'z'"),
        ([step("double", {"x": "a"}, {"z": "b"})], "step 1 (double): the model has no output"),
        (
            [step("double", {"x": "a"}, {"y": "b"}), step("add", {"a": "b"}, {"sum": "c"})],
            "step 2 (add): nothing is given to the model's inputs ['b']",
        ),
        ([step("double", {"x": "a"}, {})], "step 1 (double): it names none of the model's"),
        (
            [step("double", {"x": "a"}, {"y": "b"}), step("double", {"x": "a"}, {"y": "b"})],
            "step 2 (double): an earlier step gives 'b' too; give it another name",
        ),
        ([step("double", {"x": "a"}, {"y": "a"})], "step 1 (double): it gives 'a', which it or"),
        (
            [step("double", {"x": "a"}, {"y": "b"}), step("double", {"x": "b"}, {"y": "a"})],
            "step 2 (double): it gives 'a', which it or an earlier step takes; put it before that "
            "step, or give it another name",
        ),
        (
            [PipelineStep("double", "", (("x", "a"),), (("y", "b"), ("y", "c")))],
            "step 1 (double): output 'y' is named twice",
        ),
        ([step("double", {"x": ""}, {"y": "b"})], "step 1 (double): input 'x' has an empty name"),
        (
            [step("double", {"x": "a"}, {"y": "b"}), step("whole", {"i": "b"}, {"o": "c"})],
            "step 2 (whole): input 'i' is INT64, but 'b' is FP32",
        ),
        (
            [step("double", {"x": "a"}, {"y": "b"}), step("table", {"t": "b"}, {"u": "c"})],
            "step 2 (table): input 't' has shape [-1, 4], but 'b' has [-1] (-1 is any size)",
        ),
        (
            [step("table", {"t": "a"}, {"u": "b"}), step("wider", {"t": "a"}, {"u": "c"})],
            "step 2 (wider): input 't' has shape [-1, 5], but 'a' has [-1, 4] (-1 is any size)",
        ),
        ([step("p", {"x": "a"}, {"y": "b"})], "step 1 (p) is the pipeline itself"),
    ],
)
def test_steps_that_do_not_fit_are_refused(steps: Sequence[PipelineStep], complaint: str) -> None:
    whole = TensorSpec("i", Datatype.INT64, (-1,))
    models = {
        "double": double(),
        "add": add(),
        "whole": Model([whole], [fp32("o")], lambda i: [i]),
        "table": Model([fp32("t", (-1, 4))], [fp32("u")], lambda t: [t]),
        "wider": Model([fp32("t", (-1, 5))], [fp32("u")], lambda t: [t]),
    }
    with pytest.raises(ModelInvalid) as caught:
        pipeline(steps, **models)
    assert caught.value.message.startswith(complaint)


def test_pipeline_may_contain_another_but_none_that_contains_it() -> None:
    inner = pipeline([step("p", {"x": "a"}, {"y": "b"})], name=ModelName("inner"), p=double())
    middle = pipeline(
        [step("inner", {"a": "a"}, {"b": "b"})], name=ModelName("middle"), inner=inner
    )
    outer = [step("middle", {"a": "in"}, {"b": "out"})]
    chain = pipeline(outer, name=ModelName("other"), middle=middle)
    assert chain.run([tensor("in", 3)]) == [tensor("out", 6)]
    assert chain.contains(ModelName("inner"), ModelVersion(""))
    assert chain.contains(ModelName("p"), ModelVersion("4"))
    assert not chain.contains(ModelName("other"), ModelVersion(""))
    with pytest.raises(ModelInvalid) as caught:
        pipeline(outer, middle=middle)
    assert caught.value.message == "step 1 (middle) is a pipeline that contains this one"


def test_outputs_of_a_step_are_checked_before_the_next_one_runs() -> None:
    odd = Model([fp32("x")], [fp32("y")], lambda x: [x.reshape(1, -1)])
    last = double()
    chain = pipeline(
        [step("odd", {"x": "a"}, {"y": "b"}), step("last", {"x": "b"}, {"y": "c"})],
        odd=odd,
        last=last,
    )
    with pytest.raises(InvalidRequest) as caught:
        chain.run([tensor("a", 1, 2)])
    assert caught.value.message == (
        "step 2 (last): tensor 'x' has shape [1, 2], the model takes [-1] (-1 is any size)"
    )
    assert last.asked == []


def test_closed_pipeline_is_unavailable_and_leaves_its_models_to_their_owner() -> None:
    chain = pipeline([step("m", {"x": "a"}, {"y": "b"})], m=double())
    chain.close()
    chain.close()
    for outputs in ((), ("b",)):
        with pytest.raises(ModelUnavailable, match="the pipeline has been unloaded"):
            chain.run([tensor("a", 1)], outputs)
