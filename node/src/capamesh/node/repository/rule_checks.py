"""Checks that a model's rules agree with each other, as far as that needs no model. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Final

from capamesh.node.repository.limits import MAX_WARM_UP_ELEMENTS
from capamesh.node.repository.rules import (
    NO_AXIS,
    BatchingRules,
    PipelineStep,
    Rules,
    SequenceRules,
    WarmUp,
)

MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,255}")
NPY_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._ -]*\.npy")
"""No separator of any system, no drive, not hidden, and no way up."""


def rules_problem(rules: Rules, model: str = "") -> str:
    """Return what is wrong with `rules` of the model called `model`, beginning with its key; "" if nothing."""
    return next(_problems(rules, model), "")


def _problems(rules: Rules, model: str) -> Iterator[str]:
    yield from _batching_problems(rules.batching)
    yield from _sequence_problems(rules.sequence, rules.batching)
    for index, warm_up in enumerate(rules.warm_up):
        yield from (f"warm_up[{index}]{problem}" for problem in _warm_up_problems(warm_up))
    if rules.loop is not None:
        if rules.sequence.states or rules.sequence.controls:
            yield "loop: a model with sequences is not run in a loop; remove one of the two"
        padded = {one.name for one in rules.batching.ragged}
        for name in sorted(padded & {name for name, _ in rules.loop.feedback}):
            yield f"loop.feedback: input {name!r} is in batching.ragged too; what is fed back is not padded"
    if rules.steps:
        if rules.loop is not None:
            yield "loop: a pipeline is not run in a loop; say it in the manifests of its models"
        if rules.batching.ragged:
            yield (
                "batching.ragged: a pipeline has no inputs of its own to pad; say it in the manifests "
                "of its models"
            )
        if rules.sequence.states:
            yield "sequence: a pipeline keeps no states; say it in the manifests of its models"
        yield from _chain_problems(rules.steps, model)


def _batching_problems(batching: BatchingRules) -> Iterator[str]:
    ragged = batching.ragged
    masks = [one.mask for one in ragged if one.mask]
    cuts = [f"{output!r} along axis {one.axis}" for one in ragged for output in one.outputs]
    for index, one in enumerate(ragged):
        if list(one.buckets) != sorted(set(one.buckets)):
            yield (
                f"batching.ragged[{index}].buckets is {list(one.buckets)}; list the lengths in "
                "ascending order, each once"
            )
    for name in _doubled(one.name for one in ragged):
        yield f"batching.ragged: input {name!r} is there twice; one axis of an input may vary"
    for name in _doubled(masks):
        yield f"batching.ragged: mask {name!r} is there twice; name it at one input"
    for name in sorted({one.name for one in ragged} & set(masks)):
        yield f"batching.ragged: {name!r} is both an input and a mask; a mask is padded by itself"
    for cut in _doubled(cuts):
        yield f"batching.ragged: output {cut} is cut twice; name it at one input"


def _sequence_problems(sequence: SequenceRules, batching: BatchingRules) -> Iterator[str]:
    states = sequence.states
    for name in _doubled(state.input for state in states):
        yield f"sequence.state: input {name!r} is there twice; one state feeds it"
    for name in _doubled(state.output for state in states):
        yield f"sequence.state: output {name!r} is there twice; it is the next value of one state"
    padded = {one.name for one in batching.ragged} | {one.mask for one in batching.ragged}
    for index, state in enumerate(states):
        where = f"sequence.state[{index}]"
        if state.input in padded:
            yield f"{where}.input {state.input!r} is in batching.ragged too; states are not padded"
        if not state.shape or state.axis == NO_AXIS:
            continue
        if state.axis >= len(state.shape):
            yield (
                f"{where}.axis is {state.axis}; the shape {list(state.shape)} has axes 0 to "
                f"{len(state.shape) - 1}"
            )
        elif state.shape[state.axis] != 1:
            yield (
                f"{where}.shape is {list(state.shape)}; write 1 at axis {state.axis}, along which "
                "sequences are stacked"
            )


def _warm_up_problems(warm_up: WarmUp) -> Iterator[str]:
    shaped = {name for name, _ in warm_up.shapes}
    for name, file in warm_up.files:
        if name in shaped:
            yield f".files: input {name!r} has a shape too; a file has its own, remove one of the two"
        if not NPY_NAME.fullmatch(file):
            yield (
                f".files.{name} is {file!r}; name a .npy file beside the manifest by letters, digits, "
                "blanks, '.', '_' and '-'"
            )
    elements = max((math.prod(shape) for _, shape in warm_up.shapes), default=0)
    if elements > MAX_WARM_UP_ELEMENTS:
        yield f".shapes: an input has {elements} elements, at most {MAX_WARM_UP_ELEMENTS} are allowed"


def _chain_problems(steps: tuple[PipelineStep, ...], model: str) -> Iterator[str]:
    """Yield what is wrong with a chain: its order is the order of its steps, so that none can be a cycle."""
    used_by: dict[str, int] = {}
    given_by: dict[str, int] = {}
    for index, step in enumerate(steps):
        where = f"step[{index}]"
        if not MODEL_NAME.fullmatch(step.model):
            yield (
                f"{where}.model {step.model!r} is no model name: 1 to 256 letters, digits, '.', '_' "
                "and '-', no dot first"
            )
        if step.model == model:
            yield f"{where}.model is {model!r} itself; a pipeline cannot contain itself"
        if not step.inputs or not step.outputs:
            yield f"{where}: maps no inputs or no outputs; a step takes and gives at least one tensor"
        for side, pairs in (("input", step.inputs), ("output", step.outputs)):
            for name in _doubled(own for own, _ in pairs):
                yield f"{where}.{side}s: {side} {name!r} is there twice; map it once"
        for _, name in step.inputs:
            used_by.setdefault(name, index)
        for _, name in step.outputs:
            if name in given_by:
                yield (
                    f"{where}.outputs: {name!r} is given by step[{given_by[name]}] already; call it "
                    "something else"
                )
            elif name in used_by:
                yield (
                    f"{where}.outputs: {name!r} is used by step[{used_by[name]}], which runs no later; "
                    "change the order of the steps or call it something else"
                )
            given_by.setdefault(name, index)


def _doubled(names: Iterable[str]) -> list[str]:
    """Return the names that occur more than once, each once."""
    seen: set[str] = set()
    doubled: dict[str, None] = {}
    for name in names:
        if name in seen:
            doubled[name] = None
        seen.add(name)
    return list(doubled)
