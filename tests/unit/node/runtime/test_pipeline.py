"""Models behind models: a chain served as one, and one whose callers see other shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from typing_extensions import override
from worker_fakes import FakeModel

from capamesh.node.repository.declared import DeclaredIo, Reshape
from capamesh.node.repository.rules import PipelineStep
from capamesh.node.runtime.api import LoadedModel
from capamesh.node.runtime.pipeline import MAX_STEPS, PipelineModel
from capamesh.node.runtime.reshaping import reshaped
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, ModelUnavailable, RunFailed
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

ANY = ModelVersion("")


def tensor(name: str, *values: float) -> Tensor:
    return Tensor.from_numpy(name, np.array(values, np.float32))


def specs(names: str, *shape: int, datatype: Datatype = Datatype.FP32) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, datatype, (-1, *shape)) for name in names.split())


class Model(FakeModel):
    """`function` takes and gives arrays in declared order."""

    def __init__(
        self, inputs: Any, outputs: Any, function: Callable[..., Any] = lambda x: [x]
    ) -> None:
        super().__init__(inputs, outputs)
        self.function = function
        self.asked: list[tuple[str, ...]] = []

    @override
    def run(self, inputs: Sequence[Tensor], outputs: Sequence[str] = (), *_: object) -> Any:
        self.asked.append(tuple(outputs))
        results = self.function(*(given.to_numpy() for given in inputs))
        named = dict(zip((spec.name for spec in self.outputs), results, strict=True))
        return [Tensor.from_numpy(name, named[name]) for name in outputs]

    @override
    def close(self) -> None:
        raise AssertionError("a pipeline must not close what it does not own")


def double() -> Model:
    return Model(specs("x"), specs("y"), lambda x: [x * 2])


def add() -> Model:
    return Model(specs("a b"), specs("sum"), lambda a, b: [a + b])


def split() -> Model:
    return Model(specs("x"), specs("low high"), lambda x: [x - 1, x + 1])


def step(model: str, given: str, gives: str) -> PipelineStep:
    """Return a step as `input=name output=name` say."""
    pairs = [
        tuple((own, name) for own, _, name in (one.partition("=") for one in side.split()))
        for side in (given, gives)
    ]
    return PipelineStep(model, "", *pairs)


def pipeline(*steps: PipelineStep, name: str = "p", **models: LoadedModel) -> PipelineModel:
    version = ModelVersion("1")
    return PipelineModel(ModelName(name), version, steps, lambda model, _: models.get(model))


def test_name_may_feed_several_steps_and_only_what_none_takes_is_an_output() -> None:
    chain = pipeline(
        step("split", "x=in", "low=l high=h"),
        step("double", "x=l", "y=l2"),
        step("add", "a=l b=in", "sum=s"),
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
        step("first", "x=in", "low=l high=h"),
        step("second", "x=l", "y=l2"),
        step("third", "x=h", "y=h2"),
        first=first,
        second=second,
        third=third,
    )
    assert chain.run([tensor("in", 5)], ["h2"]) == [tensor("h2", 12)]
    assert (first.asked, second.asked, third.asked) == ([("high",)], [], [("y",)])


DOUBLE = step("double", "x=a", "y=b")
TABLE = step("table", "t=a", "u=b")


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ([DOUBLE] * (MAX_STEPS + 1), "a pipeline of 65 steps"),
        ([PipelineStep("absent", "3", (("x", "a"),), (("y", "b"),))], "step 1: model absent/3"),
        ([step("double", "z=a", "y=b")], "step 1 (double): the model has no input 'z'"),
        ([step("double", "x=a", "z=b")], "step 1 (double): the model has no output"),
        (
            [DOUBLE, step("add", "a=b", "sum=c")],
            "step 2 (add): nothing is given to the model's inputs ['b']",
        ),
        ([step("double", "x=a", "")], "step 1 (double): it names none of the model's"),
        ([DOUBLE, DOUBLE], "step 2 (double): an earlier step gives 'b' too; give it another name"),
        ([step("double", "x=a", "y=a")], "step 1 (double): it gives 'a', which it or"),
        ([DOUBLE, step("double", "x=b", "y=a")], "step 2 (double): it gives 'a', which it or an"),
        ([step("double", "x=a", "y=b y=c")], "step 1 (double): output 'y' is named twice"),
        ([step("double", "x=", "y=b")], "step 1 (double): input 'x' has an empty name"),
        (
            [DOUBLE, step("whole", "i=b", "o=c")],
            "step 2 (whole): input 'i' is INT64, but 'b' is FP32",
        ),
        (
            [DOUBLE, step("table", "t=b", "u=c")],
            "step 2 (table): input 't' has shape [-1, 4], but 'b' has [-1] (-1 is any size)",
        ),
        (
            [TABLE, step("wider", "t=a", "u=c")],
            "step 2 (wider): input 't' has shape [-1, 5], but 'a' has [-1, 4] (-1 is any size)",
        ),
        ([step("p", "x=a", "y=b")], "step 1 (p) is the pipeline itself"),
    ],
)
def test_steps_that_do_not_fit_are_refused(steps: Sequence[PipelineStep], complaint: str) -> None:
    models = {
        "double": double(),
        "add": add(),
        "whole": Model(specs("i", datatype=Datatype.INT64), specs("o")),
        "table": Model(specs("t", 4), specs("u")),
        "wider": Model(specs("t", 5), specs("u")),
    }
    with pytest.raises(ModelInvalid, match=f"^{re.escape(complaint)}"):
        pipeline(*steps, **models)


def test_pipeline_may_contain_another_but_none_that_contains_it() -> None:
    inner = pipeline(step("p", "x=a", "y=b"), name="inner", p=double())
    middle = pipeline(step("inner", "a=a", "b=b"), name="middle", inner=inner)
    outer = step("middle", "a=in", "b=out")
    chain = pipeline(outer, name="other", middle=middle)
    assert chain.run([tensor("in", 3)]) == [tensor("out", 6)]
    assert chain.contains(ModelName("inner"), ANY)
    assert chain.contains(ModelName("p"), ModelVersion("4"))
    assert not chain.contains(ModelName("other"), ANY)
    with pytest.raises(ModelInvalid, match=r"step 1 \(middle\) is a pipeline that contains this"):
        pipeline(outer, middle=middle)


def test_outputs_of_a_step_are_checked_before_the_next_one_runs() -> None:
    odd = Model(specs("x"), specs("y"), lambda x: [x.reshape(1, -1)])
    last = double()
    chain = pipeline(step("odd", "x=a", "y=b"), step("last", "x=b", "y=c"), odd=odd, last=last)
    refusal = r"^step 2 \(last\): tensor 'x' has shape \[1, 2\], the model takes \[-1\]"
    with pytest.raises(InvalidRequest, match=refusal):
        chain.run([tensor("a", 1, 2)])
    assert last.asked == []


def test_closed_pipeline_is_unavailable_and_leaves_its_models_to_their_owner() -> None:
    chain = pipeline(step("m", "x=a", "y=b"), m=double())
    chain.close()
    chain.close()
    for outputs in ((), ("b",)):
        with pytest.raises(ModelUnavailable, match="the pipeline has been unloaded"):
            chain.run([tensor("a", 1)], outputs)


F32 = Datatype.FP32


class Echo(FakeModel):
    """Gives back its input as its output, in `out` where that is another shape."""

    def __init__(
        self, inner: tuple[int, ...], gives: tuple[int, ...], out: tuple[int, ...] = ()
    ) -> None:
        super().__init__(
            (TensorSpec("x", F32, inner), TensorSpec("k", F32, (1,))),
            (TensorSpec("y", F32, gives),),
        )
        self.seen: list[tuple[int, ...]] = []
        self.out = out

    @override
    def run(self, inputs: Sequence[Tensor], *_: object) -> list[Tensor]:
        self.seen.append(inputs[0].shape)
        return [Tensor("y", F32, self.out or inputs[0].shape, inputs[0].data)]


def inputs(*shape: int) -> list[Tensor]:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return [Tensor.from_numpy("x", x), Tensor.from_numpy("k", np.zeros(1, np.float32))]


def test_inputs_go_in_and_outputs_come_out_in_the_declared_shapes_without_a_copy() -> None:
    model = Echo((1, 2, 3), (1, 2, 3))
    declared = DeclaredIo(
        reshaped_inputs=(Reshape("x", (6,), (1, 2, 3)),),
        reshaped_outputs=(Reshape("y", (2, 3), (1, 2, 3)),),
    )
    shaped = reshaped(model, declared)
    assert [spec.shape for spec in shaped.inputs] == [(6,), (1,)]
    assert [spec.shape for spec in shaped.outputs] == [(2, 3)]
    given = inputs(6)
    shaped.validate(given)
    (y,) = shaped.run(given)
    assert model.seen == [(1, 2, 3)]
    assert y.shape == (2, 3)
    assert y.data is given[0].data
    with pytest.raises(InvalidRequest):
        shaped.validate(inputs(1, 2, 3))
    shaped.close()
    assert model.is_closed


def test_open_sizes_stand_for_each_other_in_their_order() -> None:
    model = Echo((-1, -1, 2, 2), (-1, -1, 4))
    pairs = (Reshape("x", (-1, -1, 4), (-1, -1, 2, 2)),)
    declared = DeclaredIo(has_batch_axis=True, reshaped_inputs=pairs)
    shaped = reshaped(model, declared)
    shaped.run(inputs(3, 5, 4))
    assert model.seen == [(3, 5, 2, 2)]


ANOTHER_OUTPUT = DeclaredIo(reshaped_outputs=(Reshape("y", (6,), (1, 2, 4)),))
BATCHED = DeclaredIo(has_batch_axis=True, reshaped_inputs=(Reshape("x", (-1, 6), (-1, 2, 3)),))


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (DeclaredIo(reshaped_inputs=(Reshape("x", (6,), (3, 2)),)), "input 'x' is reshaped"),
        (ANOTHER_OUTPUT, "output 'y' is reshaped to [1, 2, 4]; the model has [1, 2, 3]"),
        (BATCHED, "input 'x' is reshaped to [-1, 2, 3], the batch axis first; the model has"),
    ],
)
def test_reshape_that_the_model_has_not_is_refused(declared: DeclaredIo, reason: str) -> None:
    with pytest.raises(ModelInvalid, match=f"^{re.escape(reason)}"):
        reshaped(Echo((1, 2, 3), (1, 2, 3)), declared)


def test_output_of_another_shape_than_declared_fails_the_run() -> None:
    declared = DeclaredIo(reshaped_outputs=(Reshape("y", (6,), (1, 2, 3)),))
    shaped = reshaped(Echo((1, 2, 3), (-1, -1, -1), out=(2, 1, 3)), declared)
    with pytest.raises(RunFailed, match=r"output 'y' has shape \[2, 1, 3\]"):
        shaped.run(inputs(1, 2, 3))
