"""The structure of an ONNX file: its signature, weights and operators. Reads the file; runs nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.node.tools.optimise.onnx_files import read_onnx

if TYPE_CHECKING:
    import onnx

_BITS: Final = {
    "FLOAT": 32,
    "DOUBLE": 64,
    "FLOAT16": 16,
    "BFLOAT16": 16,
    "INT16": 16,
    "UINT16": 16,
    "INT32": 32,
    "UINT32": 32,
    "INT64": 64,
    "UINT64": 64,
    "COMPLEX64": 64,
    "COMPLEX128": 128,
    "INT4": 4,
    "UINT4": 4,
    "FLOAT4E2M1": 4,
    "INT2": 2,
    "UINT2": 2,
}
"""The bits of an element in a file, by onnx.proto's names; the others (8-bit numbers, bool) take 8."""
_SHORT: Final = {"FLOAT": "fp32", "DOUBLE": "fp64", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
_ML_DOMAIN: Final = "ai.onnx.ml"


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output as declared."""

    name: str
    datatype: str
    shape: tuple[int | str, ...] | None
    """Names are open dimensions, "?" those without a name; None: of any rank."""

    @override
    def __str__(self) -> str:
        """Return it as people read it: `X fp32[batch,64]`."""
        shape = "any shape" if self.shape is None else ",".join(map(str, self.shape))
        return f"{self.name} {self.datatype}[{shape}]"


@dataclass(frozen=True, slots=True)
class Structure:
    """The structure of one ONNX file."""

    ir_version: int
    opsets: dict[str, int]
    """The versions of operator sets by domain; the standard one is `ai.onnx`."""
    producer: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    parameters: int
    """Elements of all weights: initializers, constants, and the coefficients of classical models."""
    weight_bytes: dict[str, int]
    """The bytes of weights by element type, most first."""
    operators: dict[str, int]
    """The number of uses of each operator, subgraphs and functions included, most first; `domain.Name` where not standard."""
    external_files: tuple[str, ...] = field(default=())

    @property
    def batching(self) -> str:
        """Return, for people, whether the declared shapes let requests share a run."""
        for side, values in (("input", self.inputs), ("output", self.outputs)):
            for value in values:
                if value.shape is None:
                    return f"unknown: {side} {value.name} declares no shape"
                if not value.shape:
                    return f"no: {side} {value.name} is a scalar"
                if isinstance(value.shape[0], int):
                    return (
                        f"no: the first dimension of {side} {value.name} is always {value.shape[0]}"
                    )
        return "yes: every first dimension is open"


def read_structure(path: Path) -> Structure:
    """Return what the ONNX file at `path` says; external data is named, not read.

    ConfigError: no `onnx` package. ModelInvalid: the file cannot be read.
    """
    return structure_of(read_onnx(path, with_weights=False))


def structure_of(model: onnx.ModelProto) -> Structure:
    """Return what `model` says."""
    nodes = list(nodes_of(model.graph.node, *(function.node for function in model.functions)))
    tensors = list(_weights(model, nodes))
    weight_bytes: Counter[str] = Counter()
    parameters = 0
    for tensor in tensors:
        name = element_name(tensor.data_type)
        count = math.prod(tensor.dims)
        parameters += count
        weight_bytes[_SHORT.get(name, name.lower())] += (
            sum(map(len, tensor.string_data))
            if name == "STRING"
            else math.ceil(count * _BITS.get(name, 8) / 8)
        )
    coefficients = sum(_coefficients(node) for node in nodes)
    if coefficients:
        weight_bytes["fp32"] += 4 * coefficients
    initial = {tensor.name for tensor in model.graph.initializer}
    return Structure(
        ir_version=model.ir_version,
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        # Old files declare their weights as inputs too.
        inputs=tuple(_value(value) for value in model.graph.input if value.name not in initial),
        outputs=tuple(_value(value) for value in model.graph.output),
        parameters=parameters + coefficients,
        weight_bytes=dict(weight_bytes.most_common()),
        operators=dict(Counter(map(operator, nodes)).most_common()),
        external_files=tuple(sorted({name for tensor in tensors for name in _locations(tensor)})),
    )


def operator(node: onnx.NodeProto) -> str:
    """Return the operator of `node`, with its domain where that is not the standard one."""
    domain = "" if node.domain in {"", "ai.onnx"} else f"{node.domain}."
    return domain + node.op_type


def nodes_of(*lists: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes in `lists`, and those of their subgraphs."""
    pending = list(lists)
    while pending:
        for node in pending.pop():
            yield node
            pending += [graph.node for graph in _subgraphs(node)]


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _weights(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    graphs = [model.graph, *(graph for node in nodes for graph in _subgraphs(node))]
    for graph in graphs:
        yield from graph.initializer
        yield from (sparse.values for sparse in graph.sparse_initializer)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _coefficients(node: onnx.NodeProto) -> int:
    """Return how many numbers a classical model's node keeps in its attributes."""
    if node.domain != _ML_DOMAIN:
        return 0
    return sum(len(attribute.floats) for attribute in node.attribute)


def _locations(tensor: onnx.TensorProto) -> Iterator[str]:
    for entry in tensor.external_data:
        if entry.key == "location":
            yield entry.value


def _value(value: onnx.ValueInfoProto) -> Value:
    kind = value.type.WhichOneof("value") or "unknown"
    if kind != "tensor_type":
        return Value(value.name, kind.removesuffix("_type"), None)
    tensor = value.type.tensor_type
    name = element_name(tensor.elem_type)
    shape = (
        tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in tensor.shape.dim
        )
        if tensor.HasField("shape")
        else None
    )
    return Value(value.name, _SHORT.get(name, name.lower()), shape)


def element_name(number: int) -> str:
    """Return an element type's name in onnx.proto."""
    import onnx  # noqa: PLC0415 - an extra

    try:
        return onnx.TensorProto.DataType.Name(number)
    except ValueError:
        return f"TYPE{number}"  # of a newer onnx.proto
