"""ONNX's own node cases, asked over the wire: what ONNX Runtime gets right must arrive right.

Cases that it cannot load or gets wrong are counted, each one after it has failed without the wire as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from model_wire import model_wire
from onnx_cases import CARRIED, Case, onnx_cases, save

from capamesh.protocol.errors import CapameshError, ModelInvalid
from capamesh.protocol.tensors import Datatype, Tensor

pytestmark = pytest.mark.pure

CASES = 1800
"""1,884 in onnx 1.23.2. These three are a little below what that and ONNX Runtime 1.31.1 give."""
PASSED = 1480
"""1,519."""
REFUSED = 170
"""179; the other 14 that the protocol cannot carry are of float4e2m1, which this runtime has no kernels for."""

BF16 = next(kind for kind, (_, datatype) in CARRIED.items() if datatype is Datatype.BF16)
LOG_FATAL = 4


@dataclass
class Outcome:
    """What became of every case, by name."""

    passed: list[str] = field(default_factory=list)
    carried: set[tuple[str, Datatype]] = field(default_factory=set)
    """Which datatypes the passed ones had, as "input" and as "output"."""
    refused: list[str] = field(default_factory=list)
    """Those with a value that the protocol cannot carry, refused with its name and type."""
    beyond: list[str] = field(default_factory=list)
    """Those that ONNX Runtime cannot load, run or get right by itself either."""
    failed: list[str] = field(default_factory=list)
    """Those that it does get right, with the reason: ours to mend."""
    misjudged: list[str] = field(default_factory=list)
    """Those that should have been refused, or in other words; likewise."""

    def __str__(self) -> str:
        return (
            f"ONNX node cases: {len(self.passed)} passed through the wire, {len(self.refused)} refused by"
            f" name, {len(self.beyond)} beyond ONNX Runtime {onnxruntime.__version__},"
            f" {len(self.failed) + len(self.misjudged)} failed"
        )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, findings: list[str]) -> Outcome:
    folder = tmp_path_factory.mktemp("cases")
    outcome = Outcome()
    for case in onnx_cases():
        file = save(case, folder)
        if case.uncarried is None:
            ask(case, file, outcome)
        else:
            offer(case, case.uncarried, file, outcome)
    findings.append(str(outcome))
    return outcome


def ask(case: Case, file: Path, outcome: Outcome) -> None:
    """Run a case through the wire; where that fails, without it."""
    try:
        with model_wire(file) as run:
            case.check(run(case.asked(), ()))
    except (CapameshError, AssertionError) as error:
        if passes_directly(case, file):
            outcome.failed.append(f"{case.name}: {error!r}")
        else:
            outcome.beyond.append(case.name)
    else:
        outcome.passed.append(case.name)
        outcome.carried |= case.datatypes()


def offer(case: Case, refusal: str, file: Path, outcome: Outcome) -> None:
    """Load a case that must be refused with words that have `refusal` in them."""
    try:
        with model_wire(file):
            outcome.misjudged.append(f"{case.name}: hosted, though {refusal} cannot be carried")
    except ModelInvalid as error:
        if refusal in error.message:
            outcome.refused.append(case.name)
        elif session(file) is None:
            outcome.beyond.append(case.name)
        else:
            outcome.misjudged.append(f"{case.name}: {error!r} does not say that {refusal}")


def passes_directly(case: Case, file: Path) -> bool:
    """Whether ONNX Runtime, called from here, gives what the case expects."""
    loaded = session(file)
    if loaded is None:
        return False
    asked = case.asked()
    names = [value.name for value in case.model.graph.output]
    try:
        if Datatype.BYTES in {tensor.datatype for tensor in asked}:
            arrays = loaded.run(names, {tensor.name: texts(tensor) for tensor in asked})
            case.check(
                [
                    Tensor.from_numpy(*pair)
                    for pair in zip(names, map(np.asarray, arrays), strict=True)
                ]
            )
        else:
            values = loaded.run_with_ort_values(
                names, {tensor.name: fed(tensor) for tensor in asked}
            )
            case.check([given(*pair) for pair in zip(names, values, strict=True)])
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no other base
        return False
    return True


def session(file: Path) -> Any | None:
    """Return a session of ONNX Runtime, or None where it cannot load the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ONNX Runtime's errors share no other base
        return None


def texts(tensor: Tensor) -> np.ndarray[Any, Any]:
    array = tensor.to_numpy()
    if tensor.datatype is not Datatype.BYTES:
        return array
    flat: Sequence[str] = [element.decode() for element in array.reshape(-1)]
    return np.array(flat, dtype=object).reshape(array.shape)


def fed(tensor: Tensor) -> Any:
    array = np.array(tensor.to_numpy())
    if tensor.datatype is Datatype.BF16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, BF16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def given(name: str, value: Any) -> Tensor:
    if value.element_type() != BF16:
        return Tensor.from_numpy(name, value.numpy())
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return Tensor(name, Datatype.BF16, tuple(value.shape()), raw)


def test_answers_over_the_wire_are_right_where_onnx_runtime_alone_is_right(
    outcome: Outcome,
) -> None:
    assert outcome.failed == []
    assert len(outcome.passed) >= PASSED


def test_model_with_a_value_that_the_protocol_cannot_carry_is_refused_by_name_and_type(
    outcome: Outcome,
) -> None:
    assert outcome.misjudged == []
    assert len(outcome.refused) >= REFUSED


def test_every_datatype_of_the_protocol_was_carried_both_ways(outcome: Outcome) -> None:
    assert outcome.carried == {
        (side, datatype) for side in ("input", "output") for datatype in Datatype
    }


def test_every_case_has_become_of_something(outcome: Outcome) -> None:
    seen = [*outcome.passed, *outcome.refused, *outcome.beyond]
    assert len(seen) == len(set(seen)) >= CASES
