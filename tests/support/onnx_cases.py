"""ONNX's own node cases (one operator, inputs, the outputs that must come of them) as tensors of the protocol."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.case.node import collect_testcases

from capamesh.protocol.tensors import Datatype, Tensor, fp32_from_bf16

IR_VERSIONS = range(10, 14)
MAX_OPSET = 26
"""Both as far as ONNX Runtime 1.31 reads them; onnx 1.23 writes newer ones."""

P = onnx.TensorProto
CARRIED = {
    P.BOOL: ("bool", Datatype.BOOL),
    P.UINT8: ("uint8", Datatype.UINT8),
    P.UINT16: ("uint16", Datatype.UINT16),
    P.UINT32: ("uint32", Datatype.UINT32),
    P.UINT64: ("uint64", Datatype.UINT64),
    P.INT8: ("int8", Datatype.INT8),
    P.INT16: ("int16", Datatype.INT16),
    P.INT32: ("int32", Datatype.INT32),
    P.INT64: ("int64", Datatype.INT64),
    P.FLOAT16: ("float16", Datatype.FP16),
    P.BFLOAT16: ("bfloat16", Datatype.BF16),
    P.FLOAT: ("float", Datatype.FP32),
    P.DOUBLE: ("double", Datatype.FP64),
    P.STRING: ("string", Datatype.BYTES),
}
"""ONNX's element types that the protocol carries: ONNX Runtime's name and ours."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the standard; its values are arrays, `TensorProto`s or lists."""

    name: str
    model: onnx.ModelProto
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    rtol: float
    atol: float

    @property
    def uncarried(self) -> str | None:
        """Return the first input or output that the protocol cannot carry, as a refusal names it."""
        graph = self.model.graph
        for side, values in (("input", graph.input), ("output", graph.output)):
            for value in values:
                if not _is_carried(value.type):
                    return f"{side} {value.name!r} is {type_name(value.type)},"
        return None

    def asked(self) -> list[Tensor]:
        """Return the inputs as tensors."""
        return [
            _tensor(value.name, value.type, given)
            for value, given in zip(self.model.graph.input, self.inputs, strict=True)
        ]

    def datatypes(self) -> set[tuple[str, Datatype]]:
        """Return every ("input" or "output", datatype) that the case carries."""
        graph = self.model.graph
        return {
            (side, CARRIED[value.type.tensor_type.elem_type][1])
            for side, values in (("input", graph.input), ("output", graph.output))
            for value in values
        }

    def check(self, answered: Sequence[Tensor]) -> None:
        """Compare as ONNX's own runner does: names, datatypes, shapes, then values. Raises AssertionError."""
        declared = self.model.graph.output
        assert [tensor.name for tensor in answered] == [value.name for value in declared]
        for tensor, value, expected in zip(answered, declared, self.outputs, strict=True):
            wanted = _tensor(value.name, value.type, expected)
            assert tensor.datatype is wanted.datatype
            assert tensor.shape == wanted.shape
            if tensor.datatype is Datatype.BYTES:
                assert tensor.to_numpy().tolist() == wanted.to_numpy().tolist()
            else:
                np.testing.assert_allclose(
                    _numbers(tensor), _numbers(wanted), rtol=self.rtol, atol=self.atol
                )


def onnx_cases() -> Iterator[Case]:
    """Yield every node case, its model rewritten to what ONNX Runtime reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference values of 1 / 0 and the like
        cases = collect_testcases(None)
    for case in cases:
        model = case.model
        model.ir_version = min(max(model.ir_version, IR_VERSIONS.start), IR_VERSIONS.stop - 1)
        for used in model.opset_import:
            if used.domain == "":
                used.version = min(used.version, MAX_OPSET)
        ((inputs, outputs),) = case.data_sets
        yield Case(case.name, model, inputs, outputs, case.rtol, case.atol)


def save(case: Case, folder: Path) -> Path:
    """Write the model alone into a folder of its own; return its file."""
    file = folder / case.name / f"{case.name}.onnx"
    file.parent.mkdir()
    file.write_bytes(case.model.SerializeToString())
    return file


def type_name(proto: onnx.TypeProto) -> str:
    """Return a type as ONNX Runtime writes it: `tensor(float8e4m3fn)`, `seq(tensor(float))`."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            kind = proto.tensor_type.elem_type
            name = CARRIED[kind][0] if kind in CARRIED else P.DataType.Name(kind).lower()
            return f"tensor({name})"
        case "sequence_type":
            return f"seq({type_name(proto.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({type_name(proto.optional_type.elem_type)})"
        case other:
            raise AssertionError(f"a case with a value of {other}")


def _is_carried(proto: onnx.TypeProto) -> bool:
    return proto.WhichOneof("value") == "tensor_type" and proto.tensor_type.elem_type in CARRIED


def _tensor(name: str, proto: onnx.TypeProto, value: Any) -> Tensor:
    array = onnx.numpy_helper.to_array(value) if isinstance(value, P) else np.asarray(value)
    return Tensor.from_numpy(name, array, CARRIED[proto.tensor_type.elem_type][1])


def _numbers(tensor: Tensor) -> np.ndarray[Any, Any]:
    array = tensor.to_numpy()
    if tensor.datatype is Datatype.BF16:
        return fp32_from_bf16(array)
    return array
