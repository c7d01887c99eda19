"""Inputs to run a model with: a person's own, or generated ones that it accepts. Reads a given `.npz`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from capamesh.node.generated_inputs import OPEN_DIMS, generated_inputs
from capamesh.protocol.errors import (
    ConfigError,
    InvalidRequest,
    ModelInvalid,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.node.backend import LoadedModel

SEED: Final = 0
GENERATED_ROWS: Final = 256
"""Guess: one wrong decision among them is under the default bound of 0.99."""
_GENERATED_BYTES: Final = 64 * 2**20
"""Of all generated inputs together (guess: some 100 pictures of 3 x 224 x 224 FP32)."""
_FIXED_CASES: Final = 16
"""Runs of a model without a batch axis, each with a seed of its own (guess: such models are large)."""
_FLOATS: Final = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})


@dataclass(frozen=True, slots=True)
class TrialInputs:
    """Rows to run a model with, as often as wanted: after the last comes the first."""

    specs: tuple[TensorSpec, ...]
    origin: str
    """For people: where the rows come from."""
    rows: int
    """How many differ. Of a model without an open first dimension: whole runs."""
    is_batched: bool
    """Whether a run takes as many rows as wanted."""
    is_given: bool
    is_varied: bool
    """False where all rows are alike, so that they show little of what the model does."""
    cases: tuple[tuple[npt.NDArray[Any], ...], ...] = field(repr=False)
    """Arrays in the order of `specs`: one case with all rows, or one case a run."""

    def take(self, start: int, rows: int) -> tuple[Tensor, ...]:
        """Return the rows from `start` on, or run number `start` where nothing is batched."""
        if not self.is_batched:
            case = self.cases[start % len(self.cases)]
            return tuple(_tensor(spec, array) for spec, array in zip(self.specs, case, strict=True))
        picked = np.arange(start, start + rows) % self.rows
        return tuple(
            _tensor(spec, array[picked] if _has_rows(spec) else array)
            for spec, array in zip(self.specs, self.cases[0], strict=True)
        )


def trial_inputs(model: LoadedModel, file: Path | None) -> TrialInputs:
    """Return inputs that `model` accepts: those in `file`, else generated ones, which it has run.

    ConfigError: `file` cannot be used. ModelInvalid: no generated inputs run.
    """
    return generated_trial(model) if file is None else given_trial(model, file)


def given_trial(model: LoadedModel, file: Path) -> TrialInputs:
    """Return the arrays in `file`, a `.npz` with an array for each input by its name.

    Inputs with an open first dimension have their rows there, all the same number.
    """
    arrays = _read_npz(file)
    try:
        by_name = {
            spec.name: _tensor(spec, arrays[spec.name])
            for spec in model.inputs
            if spec.name in arrays
        }
        unknown = [Tensor.from_numpy(name, arrays[name]) for name in arrays if name not in by_name]
        model.validate([*by_name.values(), *unknown])
    except InvalidRequest as exc:
        raise ConfigError(f"{file} does not fit the model: {exc.message}") from exc
    counts = {name: by_name[name].shape[0] for name in map(_name, filter(_has_rows, model.inputs))}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ConfigError(
            f"{file}: the inputs must have the same number of rows, at least 1, and have {counts}"
        )
    case = tuple(arrays[spec.name] for spec in model.inputs)
    return TrialInputs(
        model.inputs,
        str(file),
        rows=next(iter(counts.values()), 1),
        is_batched=bool(counts),
        is_given=True,
        is_varied=True,
        cases=(case,),
    )


def generated_trial(model: LoadedModel) -> TrialInputs:
    """Return generated inputs, after a run with one row; open dimensions have the smallest size that runs."""
    open_dim = _open_dim_that_runs(model)
    specs = model.inputs
    is_batched = any(map(_has_rows, specs))
    is_varied = any(spec.datatype in _FLOATS for spec in specs)
    if is_batched:
        one_row = generated_inputs(specs, rows=1, open_dim=open_dim)
        row_bytes = max(1, sum(tensor.size_bytes for tensor in one_row))
        rows = max(1, min(GENERATED_ROWS, _GENERATED_BYTES // row_bytes)) if is_varied else 1
        cases = [generated_inputs(specs, rows=rows, open_dim=open_dim, seed=SEED)]
    else:
        rows = _FIXED_CASES if is_varied else 1
        cases = [
            generated_inputs(specs, rows=1, open_dim=open_dim, seed=SEED + index)
            for index in range(rows)
        ]
    return TrialInputs(
        specs,
        f"generated, seed {SEED}",
        rows=rows,
        is_batched=is_batched,
        is_given=False,
        is_varied=is_varied,
        cases=tuple(tuple(tensor.to_numpy() for tensor in case) for case in cases),
    )


def _open_dim_that_runs(model: LoadedModel) -> int:
    has_open_dims = any(dim < 0 for spec in model.inputs for dim in spec.shape[1:])
    sizes = OPEN_DIMS if has_open_dims else OPEN_DIMS[:1]
    reasons: list[str] = []
    for size in sizes:
        try:
            inputs = generated_inputs(model.inputs, rows=1, open_dim=size, seed=SEED)
            model.validate(inputs)
            model.run(inputs)
        except (InvalidRequest, RunFailed, TooLarge) as exc:
            reasons.append(exc.message)
        else:
            return size
    tried = f" with {', '.join(map(str, sizes))} for open dimensions" if has_open_dims else ""
    raise ModelInvalid(
        f"it runs on no generated inputs{tried}: {reasons[-1]}; give real ones with --inputs FILE.npz"
    )


def _read_npz(file: Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        # Pickled objects run code when they are loaded.
        with file.open("rb") as stream:
            loaded = cast("object", np.load(stream, allow_pickle=False))
            if isinstance(loaded, np.lib.npyio.NpzFile):
                return dict(cast("Mapping[str, npt.NDArray[Any]]", loaded))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise ConfigError(f"{file} is no .npz that can be read: {exc}") from exc
    raise ConfigError(f"{file} is no .npz: save the inputs with numpy.savez(FILE, NAME=ARRAY)")


def _tensor(spec: TensorSpec, array: npt.NDArray[Any]) -> Tensor:
    return Tensor.from_numpy(
        spec.name, array, Datatype.BF16 if spec.datatype is Datatype.BF16 else None
    )


def _has_rows(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape[0] < 0


def _name(spec: TensorSpec) -> str:
    return spec.name
