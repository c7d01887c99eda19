"""Reads an ensemble of Triton's `config.pbtxt` as the steps of a pipeline. Pure.

Triton starts a step when its inputs are there, whatever the order of the file; a pipeline's steps run in
their order. So they are put in order here.
"""

from __future__ import annotations

from typing import Final

from capamesh.node.repository.declared import DeclaredIo
from capamesh.node.repository.limits import MAX_NAME_CHARS, MAX_NAMES, MAX_STEPS, MAX_VERSION
from capamesh.node.repository.rules import PipelineStep
from capamesh.node.repository.triton.message import Message

ENSEMBLE: Final = "ensemble_scheduling"


def read_steps(top: Message, declared: DeclaredIo) -> tuple[PipelineStep, ...]:
    """Return the steps of the ensemble in `top`, each after those that feed it; () where it is none.

    Raises ModelInvalid: a tensor that nothing gives, or that is given twice; steps that wait for each other.
    """
    ensemble = top.message(ENSEMBLE)
    if ensemble is None:
        return ()
    steps = [_step(fields) for fields in ensemble.messages("step", MAX_STEPS)]
    if not steps or not declared.inputs or not declared.outputs:
        raise top.refused(ENSEMBLE, "needs steps, and input and output fields beside it")
    available = {spec.name for spec in declared.inputs}
    given = {name for step in steps for _, name in step.outputs}
    if both := sorted(available & given):
        raise top.refused(ENSEMBLE, f"a step gives {both[0]!r}, which is an input of the ensemble")
    for step in steps:
        for own, name in step.inputs:
            if name not in available | given:
                raise top.refused(
                    ENSEMBLE,
                    f"{step.model!r} takes {own!r} from {name!r}, which is no input of the ensemble "
                    "and given by no step",
                )
    for spec in declared.outputs:
        if spec.name not in given:
            raise top.refused(ENSEMBLE, f"no step gives the output {spec.name!r}")
    ordered: list[PipelineStep] = []
    waiting = steps
    while waiting:
        ready = [step for step in waiting if all(name in available for _, name in step.inputs)]
        if not ready:
            names = ", ".join(repr(step.model) for step in waiting)
            raise top.refused(ENSEMBLE, f"the steps of {names} wait for each other's outputs")
        ordered += ready
        available.update(name for step in ready for _, name in step.outputs)
        waiting = [step for step in waiting if step not in ready]
    return tuple(ordered)


def _step(fields: Message) -> PipelineStep:
    version = fields.integer("model_version", -1, MAX_VERSION)
    return PipelineStep(
        model=fields.text("model_name", MAX_NAME_CHARS),
        version=str(version) if version > 0 else "",
        inputs=_map(fields, "input_map"),
        outputs=_map(fields, "output_map"),
    )


def _map(fields: Message, name: str) -> tuple[tuple[str, str], ...]:
    """Return a map from a model's own names to the ensemble's."""
    return tuple(
        (key, entry.text("value", MAX_NAME_CHARS))
        for key, entry in fields.entries(name, MAX_NAMES, MAX_NAME_CHARS)
    )
