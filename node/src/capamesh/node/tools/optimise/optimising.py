"""Makes a smaller or faster model out of one and keeps it only if it still decides alike. Reads, runs, writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from capamesh.node.repository import scan
from capamesh.node.tools.optimise.comparing import check_agreement, compare, doubts
from capamesh.node.tools.optimise.conversions import Conversion, Feed, convert
from capamesh.node.tools.optimise.number_ranges import number_ranges
from capamesh.node.tools.optimise.onnx_files import INLINE_BYTES, read_onnx, require_onnx
from capamesh.node.tools.optimise.placing import (
    REPORT_FILE,
    Building,
    Place,
    copy_companions,
    models_folder,
    onnx_name_of,
)
from capamesh.node.tools.optimise.report import Gain, Report, Side
from capamesh.node.tools.optimise.timing import time_model
from capamesh.node.tools.optimise.trial import comparison_trials
from capamesh.protocol.errors import ModelInvalid

if TYPE_CHECKING:
    from capamesh.node.repository import ModelSource
    from capamesh.node.runtime.api import Backend, LoadedModel
    from capamesh.node.tools.optimise.trial import TrialInputs

DEFAULT_MIN_AGREEMENT: Final = 0.99
"""The least share of decisions that must stay the same (guess: one in a hundred may change)."""
CALIBRATION_ROWS: Final = 512
"""The most supplied rows that find the ranges of activations (guess: some hundred are usual, more change little)."""
STEPS: Final = 7
"""The most calls of `tell`."""
_CALIBRATED_ROWS: Final = 16
"""The rows of one run that finds ranges (guess: they fit into memory for pictures too)."""
_MAX_ROWS: Final = 1024
"""The most rows of the batches that are timed (guess)."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order to optimise a model: what is wanted."""

    conversion: Conversion
    out: Path | None = None
    """The folder of models that takes the new one; None: the one that the model is in."""
    inputs: Path | None = None
    """A `.npz` with real inputs; None: generated ones."""
    min_agreement: float = DEFAULT_MIN_AGREEMENT
    may_replace: bool = False
    may_be_slower: bool = False
    """True if a model is also written that is slower for one row and at the best batch: it may still be smaller."""
    budget_s: float = 5.0
    """The time for timing each model."""


def optimise(
    source: ModelSource,
    order: Order,
    backend: Backend,
    *,
    clock_s: Callable[[], float],
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Report, Path]:
    """Write `NAME-CONVERSION/VERSION/model.onnx` and a report beside it; return the report and the version's folder.

    The source stays as it is. Where it fails, nothing is left behind. `tell` hears of each step. ModelInvalid:
    the model cannot be converted or loaded, before or after, agrees too little with the original, is
    slower throughout, or no generated inputs could show whether it agrees. ConfigError: the place is taken, inputs do not fit, or the `onnx` package is missing.
    """
    require_onnx()
    if source.is_pipeline:
        raise ModelInvalid(
            f"{source.name} is a pipeline, which has no weights of its own: optimise its models, "
            f"{', '.join(step.model for step in source.manifest.rules.steps)}"
        )
    name = f"{source.name}-{order.conversion}"
    place = Place(order.out or models_folder(source), name, source.version)
    place.check_free(may_replace=order.may_replace)
    tell("loading the model")
    before = backend.load(source)
    try:
        ranges = number_ranges(read_onnx(source.path, with_weights=False))
        trials = comparison_trials(before, order.inputs, ranges)
        trial = trials[-1]  # the largest: what is typical has some length
        with place.building(onnx_name_of(source)) as building:
            tell(f"converting it to {order.conversion}")
            notes = convert(
                source.path,
                building.onnx_file,
                order.conversion,
                calibration=_calibration(trial) if trial.is_given else None,
                providers=(before.provider,),
                is_external=source.size_bytes > INLINE_BYTES,
            )
            copy_companions(source, building)
            built = _built(building)
            after = backend.load(built)
            try:
                _check_signature(before, after)
                tell("comparing their outputs")
                outputs = compare(before, after, trials)
                check_agreement(outputs, trials, order.conversion, order.min_agreement)
                tell("timing the original")
                before_side = _side(source, before, trial, order.budget_s, clock_s)
                tell("timing the new one")
                after_side = _side(built, after, trial, order.budget_s, clock_s)
                if Gain.of(before_side.profile, after_side.profile).is_slower:
                    # what else the machine did may have fallen on the second
                    tell("timing both again")
                    before_side = _quicker(
                        before_side, _side(source, before, trial, order.budget_s, clock_s)
                    )
                    after_side = _quicker(
                        after_side, _side(built, after, trial, order.budget_s, clock_s)
                    )
                gain = Gain.of(before_side.profile, after_side.profile)
                if gain.is_slower and not order.may_be_slower:
                    raise ModelInvalid(
                        f"nothing was written: of the {order.conversion} model, {gain.note}; it has "
                        f"{built.size_bytes / source.size_bytes:.0%} of the size: accept it with --allow-slower"
                    )
            finally:
                after.close()
            report = Report(
                order.conversion,
                before_side,
                after_side,
                outputs,
                order.min_agreement,
                trial.origin,
                sum(trial.rows for trial in trials),
                backend.runtime,
                before.provider,
                (
                    *((gain.note,) if gain.note else ()),
                    *notes,
                    *doubts(outputs, order.min_agreement),
                ),
            )
            tell("putting it into place")
            text = json.dumps(report.to_json(), indent=1, allow_nan=False)
            (building.model_folder / REPORT_FILE).write_text(f"{text}\n", encoding="utf-8")
            place.take(building)
    finally:
        before.close()
    return report, place.path


def _calibration(trial: TrialInputs) -> list[Feed]:
    rows = min(trial.rows, CALIBRATION_ROWS)
    step = _CALIBRATED_ROWS if trial.is_batched else 1
    return [
        {tensor.name: tensor.to_numpy() for tensor in trial.take(start, min(step, rows - start))}
        for start in range(0, rows, step)
    ]


def _built(building: Building) -> ModelSource:
    found = scan(building.root)
    if found.refused:
        raise ModelInvalid(f"a node would refuse the new model: {found.refused[0].reason}")
    return found.models[0]


def _check_signature(before: LoadedModel, after: LoadedModel) -> None:
    for side, old, new in (
        ("inputs", before.inputs, after.inputs),
        ("outputs", before.outputs, after.outputs),
    ):
        if [(s.name, s.datatype) for s in old] != [(s.name, s.datatype) for s in new]:
            raise ModelInvalid(f"the conversion changes the model's {side} from {old} to {new}")


def _side(
    source: ModelSource,
    model: LoadedModel,
    trial: TrialInputs,
    budget_s: float,
    clock_s: Callable[[], float],
) -> Side:
    timing = time_model(model, trial, max_rows=_MAX_ROWS, budget_s=budget_s, clock_s=clock_s)
    return Side(source.name, source.version, source.digest, source.size_bytes, timing.profile)


def _quicker(one: Side, other: Side) -> Side:
    """Return whichever of two measurements of a model has the most rows a second: a busy machine only adds time."""
    return max(one, other, key=lambda side: side.rows_per_s)
