"""Several models served as one: each step's outputs are the next one's inputs, by name. Runs models; no other IO.

A name on the chain is an input of the pipeline where no step gives it, and an output where no later step
takes it. Tensors pass from step to step without a copy, each until nothing needs it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NoReturn

from typing_extensions import override

from capamesh.node.repository.rules import PipelineStep
from capamesh.node.runtime.api import LoadedModel, StopSwitch
from capamesh.node.runtime.signature import Signature
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, ModelUnavailable, RunFailed
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tensors import Tensor, TensorSpec

MAX_STEPS: Final = 64  # guess: many times what a chain of models needs
_ANY_DIM: Final = -1

Resolver = Callable[[ModelName, ModelVersion], LoadedModel | None]
"""Returns a model that is loaded, by its version or, where that is empty, its newest; None if not."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step with the model found for it."""

    number: int
    """The number of the step, from 1, as messages count."""
    rule: PipelineStep
    model: LoadedModel

    @property
    def title(self) -> str:
        """Return how a message calls it."""
        return f"step {self.number} ({self.rule.model})"


@dataclass(frozen=True, slots=True)
class _Call:
    """One step of a run."""

    step: _Step
    inputs: tuple[tuple[str, str], ...]
    """(the model's input, the name on the chain)."""
    outputs: tuple[str, ...]
    """The model's own names of what is needed of it."""
    names: tuple[str, ...]
    """The same by their names on the chain."""
    dropped: tuple[str, ...]
    """The names that nothing needs once the inputs are taken."""


class PipelineModel(LoadedModel):
    """A chain of loaded models behind the `LoadedModel` protocol.

    It holds the models that `resolve` found when it was made; who unloads one makes its runs raise
    ModelUnavailable. `name` and `version` are its own, by which it is found inside itself.
    ModelInvalid, with the step's number: the steps do not fit together.
    """

    def __init__(
        self,
        name: ModelName,
        version: ModelVersion,
        steps: Sequence[PipelineStep],
        resolve: Resolver,
    ) -> None:
        if not 1 <= len(steps) <= MAX_STEPS:
            raise ModelInvalid(f"a pipeline of {len(steps)} steps; it takes 1 to {MAX_STEPS}")
        chain = _Chain()
        for number, rule in enumerate(steps, 1):
            member = ModelName(rule.model), ModelVersion(rule.version)
            if _is_same(member, (name, version)):
                raise ModelInvalid(f"step {number} ({rule.model}) is the pipeline itself")
            model = resolve(*member)
            if model is None:
                shown = f"{rule.model}/{rule.version}" if rule.version else rule.model
                raise ModelInvalid(
                    f"step {number}: model {shown} is not loaded on this device; its own state tells why"
                )
            if isinstance(model, PipelineModel) and model.contains(name, version):
                raise ModelInvalid(
                    f"step {number} ({rule.model}) is a pipeline that contains this one"
                )
            chain.add(_Step(number, rule, model))
        self.members: tuple[tuple[ModelName, ModelVersion], ...] = tuple(
            dict.fromkeys((ModelName(step.model), ModelVersion(step.version)) for step in steps)
        )
        """The models it runs, each once, in their order and as its steps name them."""
        self.inputs = tuple(chain.inputs.values())
        self.outputs = tuple(chain.outputs())
        if not self.outputs:
            raise ModelInvalid("a pipeline without outputs: its steps name none")
        models = [step.model for step in chain.steps]
        self.provider = "+".join(dict.fromkeys(model.provider for model in models))
        precisions = {model.precision for model in models if model.precision}
        self.precision = "mixed" if len(precisions) > 1 else "".join(precisions)
        self.is_data_dependent = any(model.is_data_dependent for model in models)
        self._nested = tuple(model for model in models if isinstance(model, PipelineModel))
        self._signature = Signature(self.inputs, self.outputs, reads_texts=False)
        self._output_names = tuple(spec.name for spec in self.outputs)
        self._steps: tuple[_Step, ...] = tuple(chain.steps)
        self._plan: tuple[_Call, ...] | None = _plan(self._steps, self._output_names)

    def contains(self, name: ModelName, version: ModelVersion) -> bool:
        """Return whether a model is a member of this pipeline or of one in it; an empty version is any."""
        return any(_is_same(member, (name, version)) for member in self.members) or any(
            model.contains(name, version) for model in self._nested
        )

    @override
    def validate(self, inputs: Sequence[Tensor], outputs: Sequence[str] = ()) -> None:
        """Check a request against what the chain takes; see `LoadedModel.validate`."""
        self._signature.validate(inputs, outputs)

    @override
    def run(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[str] = (),
        stop: StopSwitch | None = None,
    ) -> list[Tensor]:
        """Run the steps that the outputs need, one after the other; see `LoadedModel.run`.

        What a step refuses or fails at is told with its number.
        """
        steps, plan = self._steps, self._plan  # in this order: `close` goes the other way
        if plan is None:
            raise ModelUnavailable("the pipeline has been unloaded")
        wanted = outputs or self._output_names
        if outputs:
            plan = _plan(steps, wanted)
        tensors = {tensor.name: tensor for tensor in inputs}
        for call in plan:
            taken = [_named(tensors[on_chain], own) for own, on_chain in call.inputs]
            for name in call.dropped:
                tensors.pop(name, None)
            model = call.step.model
            try:
                # What an earlier step gave may be of another shape than it declared.
                model.validate(taken, call.outputs)
                given = model.run(taken, call.outputs, stop)
            except InvalidRequest as exc:
                raise InvalidRequest(f"{call.step.title}: {exc.message}") from exc
            except RunFailed as exc:
                raise RunFailed(f"{call.step.title}: {exc.message}") from exc
            for name, tensor in zip(call.names, given, strict=True):
                tensors[name] = _named(tensor, name)
        return [tensors[name] for name in wanted]

    @override
    def give_back(self) -> None:
        """See `LoadedModel.give_back`; nothing is left with a pipeline, its models have theirs."""

    @override
    def close(self) -> None:
        """Let go of the models, which are their owner's to close; runs in progress hold them."""
        self._plan = None
        self._steps = ()
        self._nested = ()


class _Chain:
    """The names on the chain while steps are put to its end."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.inputs: dict[str, TensorSpec] = {}
        self._given: dict[str, TensorSpec] = {}
        self._taken: set[str] = set()

    def add(self, step: _Step) -> None:
        """Check that the step fits what is there; ModelInvalid: it does not."""
        takes = {spec.name: spec for spec in step.model.inputs}
        gives = {spec.name: spec for spec in step.model.outputs}
        _check_names(step, "input", step.rule.inputs, takes)
        _check_names(step, "output", step.rule.outputs, gives)
        unfed = takes.keys() - dict(step.rule.inputs).keys()
        if unfed:
            _refuse(step, f"nothing is given to the model's inputs {sorted(unfed)}")
        if not step.rule.outputs:
            _refuse(step, "it names none of the model's outputs, so that nothing comes of it")
        for own, on_chain in step.rule.inputs:
            self._take(step, takes[own], on_chain)
        for own, on_chain in step.rule.outputs:
            if on_chain in self._given:
                _refuse(step, f"an earlier step gives {on_chain!r} too; give it another name")
            if on_chain in self.inputs:
                _refuse(
                    step,
                    f"it gives {on_chain!r}, which it or an earlier step takes; put it before "
                    "that step, or give it another name",
                )
            self._given[on_chain] = replace(gives[own], name=on_chain)
        self.steps.append(step)

    def _take(self, step: _Step, spec: TensorSpec, on_chain: str) -> None:
        self._taken.add(on_chain)
        there = self._given.get(on_chain) or self.inputs.get(on_chain)
        if there is None:
            self.inputs[on_chain] = replace(spec, name=on_chain)
            return
        if there.datatype is not spec.datatype:
            _refuse(
                step,
                f"input {spec.name!r} is {spec.datatype}, but {on_chain!r} is {there.datatype}",
            )
        if not _is_compatible(there.shape, spec.shape):
            _refuse(
                step,
                f"input {spec.name!r} has shape {list(spec.shape)}, but {on_chain!r} has "
                f"{list(there.shape)} (-1 is any size)",
            )
        if on_chain in self.inputs:
            self.inputs[on_chain] = replace(there, shape=_narrowed(there.shape, spec.shape))

    def outputs(self) -> list[TensorSpec]:
        """Return what no step takes, in the order in which it is given."""
        return [spec for name, spec in self._given.items() if name not in self._taken]


def _check_names(
    step: _Step,
    side: str,
    pairs: tuple[tuple[str, str], ...],
    specs: dict[str, TensorSpec],
) -> None:
    seen: set[str] = set()
    for own, on_chain in pairs:
        if own not in specs:
            _refuse(step, f"the model has no {side} {own!r}; it has {sorted(specs)}")
        if own in seen:
            _refuse(step, f"{side} {own!r} is named twice")
        if not on_chain:
            _refuse(step, f"{side} {own!r} has an empty name on the chain")
        seen.add(own)


def _plan(steps: Sequence[_Step], wanted: Sequence[str]) -> tuple[_Call, ...]:
    """Return the calls that `wanted` needs, in the steps' order."""
    needed = set(wanted)
    calls: list[_Call] = []
    for step in reversed(steps):
        outputs = [pair for pair in step.rule.outputs if pair[1] in needed]
        if not outputs:
            continue
        taken = dict.fromkeys(on_chain for _, on_chain in step.rule.inputs)
        dropped = tuple(name for name in taken if name not in needed)  # no later step takes it
        needed.update(taken)
        calls.append(
            _Call(
                step,
                step.rule.inputs,
                tuple(own for own, _ in outputs),
                tuple(on_chain for _, on_chain in outputs),
                dropped,
            )
        )
    return tuple(reversed(calls))


def _named(tensor: Tensor, name: str) -> Tensor:
    if tensor.name == name:
        return tensor
    return Tensor(name, tensor.datatype, tensor.shape, tensor.data)


def _is_same(one: tuple[ModelName, ModelVersion], other: tuple[ModelName, ModelVersion]) -> bool:
    """Return whether two names may mean one model: an empty version is the newest, whichever that becomes."""
    return one[0] == other[0] and (one[1] == other[1] or not one[1] or not other[1])


def _is_compatible(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    if not one or not other:  # a scalar or any shape at all, which only a run tells apart
        return True
    return len(one) == len(other) and all(
        a == b or _ANY_DIM in {a, b} for a, b in zip(one, other, strict=True)
    )


def _narrowed(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Return what fits both of two compatible shapes."""
    if not one or not other:
        return one or other
    return tuple(b if a == _ANY_DIM else a for a, b in zip(one, other, strict=True))


def _refuse(step: _Step, reason: str) -> NoReturn:
    raise ModelInvalid(f"{step.title}: {reason}")
