"""Inputs to run a model with: a person's own, or generated ones that it runs. Reads a given `.npz`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.node.profiling.synthetic_inputs import DYNAMIC_DIMS, synthetic_inputs
from capamesh.node.repository.array_files import read_npz
from capamesh.protocol.errors import (
    ConfigError,
    InvalidRequest,
    ModelInvalid,
    RunFailed,
    TooLarge,
)
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec

if TYPE_CHECKING:
    from capamesh.node.runtime.api import LoadedModel

SEED: Final = 0
GENERATED_ROWS: Final = 256
"""The generated rows (guess: one wrong decision among them is under the default bound of 0.99)."""
GENERATED_RUNS: Final = 128
"""The generated runs of a model without a batch axis, each with a seed of its own (guess: such models are large)."""
MAX_INPUT_BYTES: Final = 4 * 2**30
"""The largest given file, unpacked (guess: 7,000 pictures of 3 x 224 x 224 FP32)."""
_GENERATED_BYTES: Final = 256 * 2**20
"""The size of all generated inputs together: what one message may carry."""
_TRIED_RUNS: Final = 16
"""The runs of a model without a batch axis that is not compared with another (guess)."""
_SIZES: Final = 3
"""The number of sizes of open dimensions that are compared (guess: short, longer and long texts)."""
_FREE: Final = range(2)  # floats: at least two
_SHOWN: Final = 8  # inputs in a message (guess)
_GIVE: Final = "give real ones with --inputs FILE.npz"
_FLOATS: Final = frozenset({Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64})


@dataclass(frozen=True, slots=True)
class TrialInputs:
    """Rows to run a model with, as often as wanted: after the last comes the first."""

    specs: tuple[TensorSpec, ...]
    origin: str
    """The origin of the rows, for people."""
    rows: int
    """The number of different rows; whole runs of a model without an open first dimension."""
    is_batched: bool
    """True if a run takes as many rows as wanted."""
    is_given: bool
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
        cases=(case,),
    )


def generated_trial(model: LoadedModel) -> TrialInputs:
    """Return generated inputs, after a run with one row; open dimensions have the smallest size that runs.

    Whole numbers are 0. ModelInvalid: none run.
    """
    size = _sizes_that_run(model, {}, most=1)[0]
    is_varied = any(spec.datatype in _FLOATS for spec in model.inputs)
    wanted = _TRIED_RUNS if _is_fixed(model.inputs) else GENERATED_ROWS
    return _generated(model.inputs, {}, size, wanted if is_varied else 1, _GENERATED_BYTES)


def comparison_trials(
    model: LoadedModel, file: Path | None, ranges: Mapping[str, range]
) -> tuple[TrialInputs, ...]:
    """Return inputs that show whether another model decides as `model`: those in `file`, else generated ones.

    Generated whole numbers are drawn from `ranges`, by the inputs' names; open dimensions have several sizes
    of those that run, each in a trial of its own, ascending. ConfigError: `file` cannot be used. ModelInvalid:
    there is an input that nothing can be generated for, all would be alike, or none run.
    """
    if file is not None:
        return (given_trial(model, file),)
    specs = model.inputs
    unknown = [spec for spec in specs if spec.datatype not in _FLOATS and spec.name not in ranges]
    if unknown:
        named = ", ".join(f"{spec.name!r} ({spec.datatype})" for spec in unknown[:_SHOWN])
        raise ModelInvalid(
            f"nothing was written: the model does not show what its input {named} may hold, so that "
            f"generated ones would say nothing of its decisions; {_GIVE}"
        )
    if specs and all(len(ranges.get(spec.name, _FREE)) == 1 for spec in specs):
        raise ModelInvalid(f"nothing was written: all generated inputs would be alike; {_GIVE}")
    sizes = _sizes_that_run(model, ranges, most=len(DYNAMIC_DIMS))
    sizes = ([size for size in sizes if size > 1] or sizes)[:_SIZES]
    wanted = GENERATED_RUNS if _is_fixed(specs) else GENERATED_ROWS
    wanted = math.ceil(wanted / len(sizes)) if specs else 1
    return tuple(
        _generated(specs, ranges, size, wanted, _GENERATED_BYTES // len(sizes)) for size in sizes
    )


def _generated(
    specs: tuple[TensorSpec, ...], ranges: Mapping[str, range], size: int, wanted: int, budget: int
) -> TrialInputs:
    """Return `wanted` rows, or runs of a model without a batch axis, or as many as fit into `budget` bytes."""
    one_row = _made(specs, ranges, rows=1, size=size, seed=SEED)
    row_bytes = max(1, sum(tensor.size_bytes for tensor in one_row))
    rows = max(1, min(wanted, budget // row_bytes))
    if _is_fixed(specs):
        cases = [_made(specs, ranges, rows=1, size=size, seed=SEED + at) for at in range(rows)]
    else:
        cases = [_made(specs, ranges, rows=rows, size=size, seed=SEED)]
    return TrialInputs(
        specs,
        f"generated, seed {SEED}",
        rows=rows,
        is_batched=not _is_fixed(specs),
        is_given=False,
        cases=tuple(tuple(tensor.to_numpy() for tensor in case) for case in cases),
    )


def _made(
    specs: Sequence[TensorSpec], ranges: Mapping[str, range], *, rows: int, size: int, seed: int
) -> tuple[Tensor, ...]:
    """Return a tensor for each of `specs`; whole numbers without a range are 0."""
    tensors = synthetic_inputs(specs, rows=rows, open_dim=size, seed=seed)
    return tuple(
        _drawn(tensor, ranges[tensor.name], (seed, at)) if tensor.name in ranges else tensor
        for at, tensor in enumerate(tensors)
    )


def _drawn(tensor: Tensor, numbers: range, seed: tuple[int, int]) -> Tensor:
    random = np.random.default_rng(seed)
    dtype = tensor.datatype.numpy_dtype
    array = random.integers(numbers.start, numbers.stop, tensor.shape, dtype=np.int64)
    return Tensor.from_numpy(tensor.name, array.astype(dtype))


def _sizes_that_run(model: LoadedModel, ranges: Mapping[str, range], *, most: int) -> list[int]:
    """Return up to `most` sizes of open dimensions that `model` runs with, ascending; one where it has none."""
    has_open_dims = any(dim < 0 for spec in model.inputs for dim in spec.shape[1:])
    sizes = DYNAMIC_DIMS if has_open_dims else DYNAMIC_DIMS[:1]
    reasons: list[str] = []
    good: list[int] = []
    for size in sizes:
        try:
            inputs = _made(model.inputs, ranges, rows=1, size=size, seed=SEED)
            model.validate(inputs)
            model.run(inputs)
        except (InvalidRequest, RunFailed, TooLarge) as exc:
            reasons.append(exc.message)
        else:
            good.append(size)
            if len(good) == most:
                break
    if good:
        return good
    tried = f" with {', '.join(map(str, sizes))} for open dimensions" if has_open_dims else ""
    raise ModelInvalid(f"it runs on no generated inputs{tried}: {reasons[-1]}; {_GIVE}")


def _read_npz(file: Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        return read_npz(file, MAX_INPUT_BYTES)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"{file} is no .npz that can be read: {exc}; save the inputs with numpy.savez(FILE, NAME=ARRAY)"
        ) from exc


def _tensor(spec: TensorSpec, array: npt.NDArray[Any]) -> Tensor:
    return Tensor.from_numpy(
        spec.name, array, Datatype.BF16 if spec.datatype is Datatype.BF16 else None
    )


def _is_fixed(specs: Sequence[TensorSpec]) -> bool:
    """Return whether a run takes just what is declared, and no number of rows."""
    return not any(map(_has_rows, specs))


def _has_rows(spec: TensorSpec) -> bool:
    return bool(spec.shape) and spec.shape[0] < 0


def _name(spec: TensorSpec) -> str:
    return spec.name
