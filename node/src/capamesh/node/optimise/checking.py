"""Whether a node would host a model, found out without a node, by a node's own code. Loads and runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.node.optimise.loading import opened
from capamesh.node.optimise.trial import trial_inputs
from capamesh.node.worker.models import advert_problem
from capamesh.node.worker.preparation import Preparation
from capamesh.node.worker.profile_cache import ProfileCache
from capamesh.protocol.errors import CapameshError, ConfigError

if TYPE_CHECKING:
    from capamesh.node.backend import Backend, LoadedModel
    from capamesh.node.optimise.trial import TrialInputs
    from capamesh.node.store import ModelSource, Refused


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one model version."""

    name: str
    version: str
    """Empty where the whole model is refused."""
    reason: str = ""
    """Why it is refused, or could not be run; empty: a node hosts it."""
    provider: str = ""
    inputs: str = ""
    """What it was run with, for people."""
    notes: tuple[str, ...] = ()
    """What a node's log would say of it, such as why its requests do not share runs."""

    @property
    def is_good(self) -> bool:
        """Whether a node hosts it."""
        return not self.reason


def refusal(refused: Refused) -> Verdict:
    """Return the verdict on what the store refuses already."""
    return Verdict(refused.name, refused.version, refused.reason)


def check(
    source: ModelSource,
    backend: Backend,
    inputs: Path | None = None,
    *,
    clock_s: Callable[[], float],
) -> Verdict:
    """Prepare `source` as a node's worker does, see that an advert can carry it, and run it.

    It is run on the rows of `inputs`, else on generated ones: a node hosts what runs on none of these too,
    but here nobody would know that it runs. A refusal is a verdict, not an error. ConfigError: `inputs`
    cannot be used.
    """
    verdict = Verdict(source.name, source.version)
    try:
        with opened(source, backend) as model:
            verdict = replace(verdict, provider=model.provider)
            preparation = Preparation(backend, ProfileCache(None), circumstances={}, clock=clock_s)
            prepared = preparation.prepare(source, lambda: model)
            verdict = replace(verdict, notes=prepared.notes)
            if problem := advert_problem(source, prepared):
                return replace(verdict, reason=problem)
            trial = trial_inputs(model, inputs)
            _run_all(model, trial)
            return replace(verdict, inputs=trial.origin)
    except ConfigError:
        raise
    except CapameshError as exc:
        return replace(verdict, reason=exc.message)


def _run_all(model: LoadedModel, trial: TrialInputs) -> None:
    """Run each given row; generated rows are alike, and one has run already."""
    for start in range(trial.rows if trial.is_given else 0):
        model.run(trial.take(start, 1))
