"""Runs a model and what was made of it on the same inputs, and judges whether it may take its place. Runs models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from capamesh.node.tools.optimise.agreement import OutputAgreement, OutputComparison, overall
from capamesh.node.tools.optimise.conversions import Conversion
from capamesh.node.tools.optimise.trial import GENERATED_ROWS, TrialInputs
from capamesh.protocol.errors import InvalidRequest, ModelInvalid, RunFailed

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel
    from capamesh.protocol.tensors import Tensor

_RUN_ROWS: Final = 16
"""The most rows of one run (guess: pictures fit into memory)."""
_RUN_BYTES: Final = 64 * 2**20
"""The approximate size of one run's outputs (guess; a text of 64 tokens with all its logits has 13 MB)."""


def compare(
    before: LoadedModel, after: LoadedModel, trials: Sequence[TrialInputs]
) -> tuple[OutputAgreement, ...]:
    """Return how the outputs of two models with the same signature agree over all rows of `trials`.

    ModelInvalid: the original does not run on generated inputs.
    """
    comparisons = [OutputComparison(spec.name) for spec in before.outputs]
    for trial in trials:
        start, step = 0, 1
        while start < trial.rows:
            inputs = trial.take(start, min(step, trial.rows - start))
            outputs = _outputs(before, inputs, trial)
            for comparison, left, right in zip(
                comparisons, outputs, after.run(inputs), strict=True
            ):
                comparison.add(left, right)
            start += step
            if trial.is_batched:
                row_bytes = max(1, sum(output.size_bytes for output in outputs) // step)
                step = max(1, min(_RUN_ROWS, _RUN_BYTES // row_bytes))
    return tuple(comparison.result() for comparison in comparisons)


def check_agreement(
    outputs: tuple[OutputAgreement, ...],
    trials: Sequence[TrialInputs],
    conversion: Conversion,
    min_agreement: float,
) -> None:
    """Raise ModelInvalid where the models agree too little, or in too few generated cases to tell."""
    is_given = trials[0].is_given
    agreement = overall(outputs)
    if agreement < min_agreement:
        worst = min(outputs, key=lambda output: output.share)
        others = [f"--{other}" for other in Conversion if other is not conversion]
        real = "" if is_given else "give real inputs with --inputs FILE.npz, "
        raise ModelInvalid(
            f"nothing was written: the {conversion} model makes the same decisions in {agreement:.4f} of "
            f"{worst.decisions} cases ({worst.measure} of output {worst.name!r}, {trials[0].origin}), the "
            f"bound is {min_agreement:g}; {real}try {' or '.join(others)}, or accept it with a lower "
            "--min-agreement"
        )
    needed = needed_decisions(min_agreement)
    least = min(outputs, key=lambda output: output.decisions, default=None)
    has_inputs = bool(trials[0].specs)  # without any, one run is all that there is
    if least is not None and least.decisions < needed and has_inputs and not is_given:
        raise ModelInvalid(
            f"nothing was written: generated inputs give {least.decisions} decisions of output "
            f"{least.name!r}, and a bound of {min_agreement:g} needs {needed}; give real inputs with "
            "--inputs FILE.npz"
        )


def needed_decisions(min_agreement: float) -> int:
    """Return how many decisions there must be for one wrong one among them to be within the bound."""
    wrong = 1 - min_agreement
    # Rounded, because 1 - 0.995 is a little less than 0.005.
    return min(GENERATED_ROWS, math.ceil(round(1 / wrong, 6))) if wrong > 0 else GENERATED_ROWS


def doubts(outputs: tuple[OutputAgreement, ...], min_agreement: float) -> tuple[str, ...]:
    """Return why the agreement may say less than it seems to, for people."""
    needed = needed_decisions(min_agreement)
    few = [
        f"{output.decisions} decisions of output {output.name!r} are few for a bound of {min_agreement:g}: "
        f"give inputs for at least {needed}"
        for output in outputs
        if output.decisions < needed
    ]
    uniform = [
        f"the original decides the same each time ({output.measure} of output {output.name!r}), so that "
        "agreement says little: give inputs that differ more"
        for output in outputs
        if output.is_uniform and output.decisions > 1
    ]
    return (*few, *uniform)


def _outputs(model: LoadedModel, inputs: tuple[Tensor, ...], trial: TrialInputs) -> list[Tensor]:
    try:
        return model.run(inputs)
    except (InvalidRequest, RunFailed) as exc:
        if trial.is_given:
            raise
        raise ModelInvalid(
            f"it does not run on all generated inputs: {exc.message}; give real ones with --inputs FILE.npz"
        ) from exc
