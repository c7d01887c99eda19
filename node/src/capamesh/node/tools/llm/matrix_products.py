"""Makes the nodes and weights of a graph whose matrices have one of several forms. Writes weights into an open file.

A product of one form is one node or a few. With `Form.ROWS` it is one of whole numbers: each row of the input is divided by its
largest number, so that one constant scale makes 8 bits of any row, and multiplied by that number afterwards. Sums of whole numbers are
exact in any order: a row's bits depend on nothing but itself (docs/decisions/0085).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from capamesh.node.tools.llm.gguf_blocks import BLOCK
from capamesh.node.tools.llm.quantising import (
    BlockWeights,
    Form,
    RowWeights,
    block_weights,
    packed,
    packed_zeros,
    row_weights,
)

if TYPE_CHECKING:
    import onnx

    from capamesh.node.tools.llm.gguf_llama import LlamaWeights
    from capamesh.node.tools.llm.weight_file import WeightFile

_Untyped = Any
"""The `onnx` package, whose own types are incomplete."""

MICROSOFT: Final = "com.microsoft"
"""The domain of the operators that ONNX Runtime adds."""
_ACCURACY_LEVEL: Final = 4
"""Products of whole numbers: activations are rounded to 8 bits, which MLAS's quickest kernels take."""
_UNIT_TOP: Final = 127
"""The code, above the middle, of a row's largest number; the codes of inputs go from 1 to 255."""
_UNIT_MIDDLE: Final = 128


class InUnits(NamedTuple):
    """The names of a tensor whose rows are in units of their own largest numbers."""

    codes: str
    """The rows, u8 [..., numbers]."""
    most: str
    """The largest numbers, f32 [..., 1]."""


class MatrixProducts:
    """The nodes and constants of one graph in the making."""

    def __init__(self, weights: LlamaWeights, dtype: npt.DTypeLike, file: WeightFile) -> None:
        from onnx import helper  # noqa: PLC0415 - an extra

        self._weights = weights
        self._file = file
        self._helper = cast("_Untyped", helper)
        self._dtype = np.dtype(dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._sums: set[str] = set()

    def _product(self, x: str, out: str, name: str, matrices: Sequence[str], form: Form) -> str:
        """Add the product of `x` with matrices of one form, one below the other."""
        if form is Form.ROWS:
            rows = row_weights(self._weights, matrices)
            return self._row_product(self._in_units(x), out, name, rows)
        if form is not Form.FLOATS:
            return self._block_product(x, out, name, block_weights(self._weights, matrices, form))
        whole = np.concatenate([self._weights.floats(each) for each in matrices])
        weight = self._constant(f"model.{name}.weight", whole.T.astype(self._dtype))
        return self._op("MatMul", [x, weight], [out])

    # whole numbers with a scale for each row

    def _row_product(self, x: InUnits, out: str, name: str, weights: RowWeights) -> str:
        inputs = [
            x.codes,
            self._constant(f"model.{name}.weight_rows", weights.codes),
            *self._unit(self._constant(f"model.{name}.weight_row_scale", weights.scales)),
        ]
        of_units = self._op("MatMulIntegerToFloat", inputs, [f"{out}.of_units"], MICROSOFT)
        return self._op("Mul", [of_units, x.most], [out])

    def _in_units(self, x: str) -> InUnits:
        """Add the rows of `x` in units of their largest numbers. A row of zeros gets codes of no meaning, which are multiplied by 0."""
        last = self._constant("last_axis", np.array([-1], np.int64))
        sizes = self._op("Abs", [x], [f"{x}.sizes"])
        most = self._op("ReduceMax", [sizes, last], [f"{x}.most"], keepdims=1)
        units = self._op("Div", [x, most], [f"{x}.units"])
        codes = self._op("QuantizeLinear", [units, *self._unit()], [f"{x}.codes"])
        return InUnits(codes, most)

    def _unit(self, *between: str) -> list[str]:
        """Return the scale and the zero point of codes of numbers from -1 to 1, with others between them."""
        scale = self._constant("unit_scale", np.array(1 / _UNIT_TOP, np.float32))
        return [scale, *between, self._constant("unit_zero", np.array(_UNIT_MIDDLE, np.uint8))]

    # blocks of 32 with a scale each

    def _block_product(self, x: str, out: str, name: str, weights: BlockWeights) -> str:
        rows, blocks, _ = weights.codes.shape
        inputs = [
            x,
            self._constant(f"model.{name}.weight_Q{weights.bits}", packed(weights)),
            self._constant(f"model.{name}.weight_scale", weights.scales),
        ]
        if weights.zeros is not None:
            inputs.append(self._constant(f"model.{name}.weight_zero", packed_zeros(weights.zeros)))
        if weights.rests is None:
            return self._matmul_bits(inputs, out, rows, blocks * BLOCK, weights.bits)
        codes = self._matmul_bits(inputs, f"{out}.of_codes", rows, blocks * BLOCK, weights.bits)
        rest = self._constant(f"model.{name}.weight_rest", weights.rests.T)
        of_rests = self._op("MatMul", [self._block_sums(x, blocks), rest], [f"{out}.of_rests"])
        return self._op("Add", [codes, of_rests], [out])

    def _matmul_bits(self, inputs: list[str], out: str, rows: int, width: int, bits: int) -> str:
        return self._op(
            "MatMulNBits",
            inputs,
            [out],
            MICROSOFT,
            N=rows,
            K=width,
            bits=bits,
            block_size=BLOCK,
            accuracy_level=_ACCURACY_LEVEL,
        )

    def _block_sums(self, x: str, blocks: int) -> str:
        """Return the sums of each 32 numbers of `x`, by which rests are multiplied; of one `x` they are added once."""
        sums = f"{x}.sums"
        if sums not in self._sums:
            self._sums.add(sums)
            shape = self._constant(
                f"block_shape_{blocks}", np.array([0, 0, blocks, BLOCK], np.int64)
            )
            axis = self._constant("block_axis", np.array([-1], np.int64))
            cut = self._op("Reshape", [x, shape], [f"{x}.blocks"])
            self._op("ReduceSum", [cut, axis], [sums], keepdims=0)
        return sums

    # nodes and constants

    def _constant(self, name: str, array: npt.NDArray[Any], *, is_shared: bool = False) -> str:
        if name not in self._constants:
            self._constants[name] = self._file.add(name, array, is_shared=is_shared)
        return name

    def _again(self, name: str, other: str, shape: tuple[int, ...]) -> str:
        self._constants[name] = self._file.again(name, other, shape, np.uint8)
        return name

    def _op(
        self,
        kind: str,
        inputs: list[str],
        outputs: list[str],
        domain: str = "",
        **attributes: float,
    ) -> str:
        name = f"{outputs[0]}/{kind}"
        node = self._helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes)
        self._nodes.append(node)
        return outputs[0]
