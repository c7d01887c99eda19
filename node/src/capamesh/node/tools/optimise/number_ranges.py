"""The ranges of whole numbers that a model's inputs may hold, found from what its graph does with them. Pure.

A number that is looked up in a table must be less than the table is long: the graph says how long. A number that is
only computed with may be anything, and the graph does not say what is usual: it gets no range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from capamesh.node.tools.optimise.structure import element_name, nodes_of, operator

if TYPE_CHECKING:
    import onnx

_SAME_NUMBERS: Final = frozenset(
    {
        *("Cast", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape"),
        *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    }
)
"""Operators whose outputs hold numbers of their first input."""
_SAME_SHAPE: Final = frozenset({"Identity", "Cast", "DequantizeLinear", "QuantizeLinear"})
_LOOKUPS: Final[dict[str, dict[int, int]]] = {
    "Gather": {1: 0},
    "com.microsoft.GatherBlockQuantized": {1: 0},
    "com.microsoft.EmbedLayerNormalization": {0: 2, 1: 4, 8: 3},
}
"""The inputs of each operator that are looked up, and the input in which they are."""
_AXES: Final = frozenset({"axis", "gather_axis"})
"""Attributes that say along which axis of the table, 0 where they are missing."""
_MAX_STEPS: Final = 16  # guess: a table is dequantized and cast

_ZEROS: Final = range(1)
_ONES: Final = range(1, 2)
_KINDS: Final = 2
"""A table of so few rows tells kinds apart, such as BERT's first and second text: all are of the first."""
_WHOLE: Final = {"UINT8": range(2**8), "INT8": range(-(2**7), 2**7), "BOOL": range(2)}
"""Datatypes all of whose numbers are usual, such as a pixel's, by onnx.proto's names."""
_WIDE: Final = frozenset({"INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64"})
_COUNTS: Final = frozenset({"INT32", "INT64"})
_MASK: Final = "mask"


def number_ranges(model: onnx.ModelProto) -> Mapping[str, range]:
    """Return what the inputs of whole numbers and booleans of `model` may hold, as far as that can be found out.

    Masks, known by their names, are all 1, so that nothing is masked.
    """
    graph = _Graph(model.graph)
    ranges: dict[str, range] = {}
    for value in model.graph.input:
        kind = element_name(value.type.tensor_type.elem_type)
        if value.name in graph.shapes or kind not in _WHOLE.keys() | _WIDE:
            continue
        lengths = set(graph.table_lengths(value.name))
        if lengths:
            least = min(lengths)
            if kind in _WHOLE:
                least = min(least, _WHOLE[kind].stop)
            if least > 0:
                ranges[value.name] = range(least) if least > _KINDS else _ZEROS
        elif _MASK in value.name.lower():
            ranges[value.name] = _ONES
        elif kind in _WHOLE:
            ranges[value.name] = _WHOLE[kind]
    return ranges


class _Graph:
    """The top graph, with the nodes of its subgraphs: these see its values under the same names."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.shapes: dict[str, Sequence[int]] = {}
        """The shapes of constants."""
        self._counts: dict[str, int] = {}
        """Constants of one whole number."""
        self._uses: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self._makers: dict[str, onnx.NodeProto] = {}
        for tensor in graph.initializer:
            self._add_constant(tensor.name, tensor)
        for node in nodes_of(graph.node):
            for index, name in enumerate(node.input):
                self._uses.setdefault(name, []).append((node, index))
            for name in node.output:
                self._makers[name] = node
            if operator(node) == "Constant":
                for attribute in node.attribute:
                    if attribute.HasField("t"):
                        self._add_constant(node.output[0], attribute.t)
                    elif attribute.name == "value_int":
                        self._counts[node.output[0]] = attribute.i

    def table_lengths(self, name: str) -> Iterator[int]:
        """Yield the lengths of the tables that numbers of the value `name` are looked up in; 0: one of unknown length."""
        pending, seen = [name], {name}
        while pending:
            for node, index in self._uses.get(pending.pop(), ()):
                kind = operator(node)
                table = _LOOKUPS.get(kind, {}).get(index)
                if table is not None:
                    yield self._length(node, node.input[table])
                elif kind == "OneHot" and index == 0:
                    yield self._counts.get(node.input[1], 0)
                elif kind == "Concat" or (kind in _SAME_NUMBERS and index == 0):
                    pending += [output for output in node.output if output not in seen]
                    seen.update(node.output)

    def _length(self, node: onnx.NodeProto, table: str) -> int:
        """Return how long `table` is along the axis that `node` looks it up by; 0: unknown."""
        for _ in range(_MAX_STEPS):
            if table in self.shapes:
                shape = self.shapes[table]
                axis = next((one.i for one in node.attribute if one.name in _AXES), 0)
                return shape[axis] if -len(shape) <= axis < len(shape) else 0
            maker = self._makers.get(table)
            if maker is None or operator(maker) not in _SAME_SHAPE:
                break
            table = maker.input[0]
        return 0

    def _add_constant(self, name: str, tensor: onnx.TensorProto) -> None:
        self.shapes[name] = tuple(tensor.dims)
        is_one = math.prod(tensor.dims) == 1 and element_name(tensor.data_type) in _COUNTS
        if is_one and tensor.data_location == tensor.DEFAULT:
            from onnx import numpy_helper  # noqa: PLC0415 - an extra

            array = cast("Any", numpy_helper).to_array(tensor)
            self._counts[name] = int(array.reshape(-1)[0])
