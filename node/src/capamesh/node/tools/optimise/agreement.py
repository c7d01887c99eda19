"""The agreement of two models' outputs for the same inputs. Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.protocol.tensors import Datatype, Tensor, fp32_from_bf16

_HALF: Final = 0.5
"""The probability at which a decision tips over."""
_SEVERAL: Final = 2


class Measure(StrEnum):
    """The measure by which two outputs are the same decision."""

    ARGMAX = "argmax over the last axis"
    EQUAL = "equality"
    SIGN = "the same side of 0"
    HALF = "the same side of 0.5"
    SHAPE = "the same shape"


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """One output over all rows compared."""

    name: str
    measure: Measure
    share: float
    """The share of decisions that are the same, 0 to 1."""
    decisions: int
    largest_difference: float
    """Absolute, over elements that are finite in both; 0 where the output is no float."""
    mean_difference: float
    is_uniform: bool = False
    """True if the original decides the same each time, so that agreeing with it is easy."""


class OutputComparison:
    """Adds up one output, run by run.

    Floats: where the last axis has more than one element and is not the rows' own, the largest of it decides;
    else the side of 0.5 where all of the original's are from 0 to 1, as probabilities are, and the side of 0
    where not. Everything else must be equal. NaN agrees with NaN alone. Another shape agrees in nothing.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._measure = Measure.EQUAL
        self._decisions = self._same = self._same_half = self._misshapen = 0
        self._is_probability = True
        self._kinds: set[object] = set()
        self._kinds_half: set[object] = set()
        self._largest = self._sum = 0.0
        self._finite = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Compare one run's output of both models."""
        left, right = _floats(before), _floats(after)
        if before.shape != after.shape:
            self._decisions += max(1, int(np.prod(before.shape[:1])))
            self._misshapen += 1
            return
        if left is None or right is None:
            array = before.to_numpy()
            same = array == after.to_numpy()
            _add_kinds(self._kinds, array)
            self._count(np.asarray(same & (before.datatype is after.datatype)))
            return
        self._add_differences(left, right)
        if left.ndim > 1 and left.shape[-1] > 1:
            self._measure = Measure.ARGMAX
            # argmax takes the first NaN for the largest.
            is_broken = np.isnan(left).any(-1) != np.isnan(right).any(-1)
            _add_kinds(self._kinds, left.argmax(-1))
            self._count((left.argmax(-1) == right.argmax(-1)) & ~is_broken)
            return
        self._measure = Measure.SIGN
        is_nan = np.isnan(left) | np.isnan(right)
        both_nan = np.isnan(left) & np.isnan(right)
        self._is_probability &= bool(((left >= 0) & (left <= 1) | np.isnan(left)).all())
        self._same_half += int((((left >= _HALF) == (right >= _HALF)) & ~is_nan | both_nan).sum())
        _add_kinds(self._kinds, left >= 0)
        _add_kinds(self._kinds_half, left >= _HALF)
        self._count(((left >= 0) == (right >= 0)) & ~is_nan | both_nan)

    def result(self) -> OutputAgreement:
        """Return the agreement over all that was added."""
        measure, same, kinds = self._measure, self._same, self._kinds
        if measure is Measure.SIGN and self._is_probability:
            measure, same, kinds = Measure.HALF, self._same_half, self._kinds_half
        if self._misshapen:
            measure = Measure.SHAPE
        return OutputAgreement(
            self._name,
            measure,
            # Outputs without an element cannot differ.
            share=same / self._decisions if self._decisions else 1.0,
            decisions=self._decisions,
            largest_difference=self._largest,
            mean_difference=self._sum / self._finite if self._finite else 0.0,
            is_uniform=len(kinds) < _SEVERAL,
        )

    def _count(self, same: npt.NDArray[Any]) -> None:
        self._decisions += same.size
        self._same += int(same.sum())

    def _add_differences(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
        is_finite = np.isfinite(left) & np.isfinite(right)
        with np.errstate(over="ignore"):
            differences = np.abs(left[is_finite] - right[is_finite])
        if differences.size:
            # Finite whatever the elements: reports are JSON, which has no infinity.
            self._largest = max(self._largest, min(float(differences.max()), sys.float_info.max))
            self._sum = min(self._sum + float(differences.sum()), sys.float_info.max)
            self._finite += differences.size


def _add_kinds(kinds: set[object], decisions: npt.NDArray[Any]) -> None:
    """Add what differs among `decisions` to `kinds`, of which no more than two are wanted."""
    if len(kinds) < _SEVERAL and decisions.size:
        flat = decisions.reshape(-1)
        kinds.add(flat[0].item() if isinstance(flat[0], np.generic) else flat[0])
        others = flat[flat != flat[0]]
        if others.size:
            kinds.add(others[0].item() if isinstance(others[0], np.generic) else others[0])


def overall(outputs: tuple[OutputAgreement, ...]) -> float:
    """Return the agreement of a model: its worst output's."""
    return min((output.share for output in outputs), default=1.0)


def _floats(tensor: Tensor) -> npt.NDArray[np.float64] | None:
    match tensor.datatype:
        case Datatype.BF16:
            return fp32_from_bf16(tensor.to_numpy()).astype(np.float64)
        case Datatype.FP16 | Datatype.FP32 | Datatype.FP64:
            return tensor.to_numpy().astype(np.float64)
        case _:
            return None
