"""Makes weights of 8 and of 4 bits as ONNX Runtime multiplies by them, and takes those of 4 bits over as they are. Pure.

Each 32 numbers of a row share a scale, or all numbers of a row do. ONNX Runtime's quick kernels take zero points that are whole numbers, or none, which stands for
the middle; with floats for zero points a token takes ten times as long (measured: 11 tokens/s instead of 127).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from capamesh.node.tools.llm.gguf_blocks import BLOCK, FOUR_BIT_TYPES
from capamesh.node.tools.llm.gguf_file import GgmlType

if TYPE_CHECKING:
    from capamesh.node.tools.llm.gguf_llama import LlamaWeights

_TOP: Final = 15
"""The largest code of 4 bits."""
ROW_TOP: Final = 64
"""The largest code of a row. With codes of inputs of at most 255 two products add up to 32,640, which fits into the 16 bits that x86 processors
without VNNI add them in: with larger codes their sums are cut off, and a model gives other answers there."""


class WeightKind(StrEnum):
    """The kinds of weights that a model may be imported with."""

    Q8 = "q8"
    W8A8 = "w8a8"
    Q4 = "q4"
    FP16 = "fp16"
    FP32 = "fp32"


FEW_BITS: Final = frozenset({WeightKind.Q8, WeightKind.W8A8, WeightKind.Q4})
"""The kinds whose matrices are of whole numbers."""


class Form(StrEnum):
    """The forms that one matrix may have in the ONNX file."""

    FLOATS = "floats"
    ROWS = "8 bits with a scale for each row"
    EIGHT = "8 bits"
    FOUR = "4 bits"
    FOUR_KEPT = "4 bits as they are in the source"


class BlockWeights(NamedTuple):
    """A matrix in blocks: a number is its code less the zero point, times the block's scale, and the block's rest on top."""

    bits: int
    codes: npt.NDArray[np.uint8]
    """The codes, u8 [rows, blocks, 32]; one a byte, of 4 bits too."""
    scales: npt.NDArray[np.float32]
    """The scales, f32 [rows, blocks]."""
    zeros: npt.NDArray[np.uint8] | None = None
    """The zero points, u8 [rows, blocks]; None: the middle, 8 or 128."""
    rests: npt.NDArray[np.float32] | None = None
    """The numbers that whole zero points leave over, f32 [rows, blocks]; None: nothing."""


class RowWeights(NamedTuple):
    """A matrix of whole numbers: a number is its code times the scale of its row."""

    codes: npt.NDArray[np.int8]
    """The codes, i8 [numbers, rows]: columns are the matrix's rows, as ONNX multiplies by them."""
    scales: npt.NDArray[np.float32]
    """The scales, f32 [rows]."""


def form_of(weights: LlamaWeights, name: str, kind: WeightKind) -> Form:
    """Return the form of a layer's matrix.

    With `Q4`, blocks of 4 bits stay what they are, and what lies beside them in 5, 6 or 8 bits becomes 8, for 4 of them would be
    worse than either; a source without blocks of 4 bits is rounded to these.
    """
    if kind in {WeightKind.FP16, WeightKind.FP32}:
        return Form.FLOATS
    if kind is WeightKind.Q8:
        return Form.EIGHT
    if kind is WeightKind.W8A8:
        return Form.ROWS
    if not weights.has_four_bits:
        return Form.FOUR
    return Form.FOUR_KEPT if weights.kind(name) in FOUR_BIT_TYPES else Form.EIGHT


def block_weights(weights: LlamaWeights, names: Sequence[str], form: Form) -> BlockWeights:
    """Return matrices of equally long rows, one below the other, as one in blocks of the shapes of `BlockWeights`; `form` is not `FLOATS`."""
    if form is Form.FOUR_KEPT:
        return _kept(weights, names)
    bits = 8 if form is Form.EIGHT else 4
    shapes = [weights.shape.tensors()[name] for name in names]
    rows, blocks = sum(shape[0] for shape in shapes), shapes[0][1] // BLOCK
    codes = np.empty((rows, blocks, BLOCK), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    first = 0
    for name, shape in zip(names, shapes, strict=True):
        for start, piece in weights.pieces(name):
            at = slice(first + start, first + start + len(piece))
            codes[at], scales[at] = rounded(piece, bits)
        first += shape[0]
    return BlockWeights(bits, codes, scales)


def row_weights(weights: LlamaWeights, names: Sequence[str]) -> RowWeights:
    """Return matrices of equally long rows, one below the other, as one with a scale for each row."""
    codes: list[npt.NDArray[np.int8]] = []
    scales: list[npt.NDArray[np.float32]] = []
    for name in names:
        for _, piece in weights.pieces(name):
            scale = np.abs(piece).max(-1) / np.float32(ROW_TOP)
            scale[scale == 0] = 1.0
            codes.append(np.rint(piece / scale[:, None]).astype(np.int8))
            scales.append(scale)
    return RowWeights(np.concatenate(codes).T, np.concatenate(scales))


def rounded(
    rows: npt.NDArray[np.float32], bits: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return rows, f32 [rows, numbers], rounded to codes, u8 [rows, blocks, 32], and scales, f32 [rows, blocks].

    The number farthest from 0 lies on the lowest code, of which there is one more than above the middle.
    """
    middle = 2 ** (bits - 1)
    cut = rows.reshape(rows.shape[0], -1, BLOCK)
    farthest = np.take_along_axis(cut, np.abs(cut).argmax(-1)[..., None], -1)[..., 0]
    scales = (farthest / -middle).astype(np.float32)
    scales[scales == 0] = 1.0
    codes = np.rint(cut / scales[..., None])
    codes += middle
    return np.clip(codes, 0, 2 * middle - 1).astype(np.uint8), scales


def packed(weights: BlockWeights) -> npt.NDArray[np.uint8]:
    """Return the codes as MatMulNBits takes them, u8 [rows, blocks, 32 or 16 bytes]: of 4 bits two in a byte, the first in its low half."""
    codes = weights.codes
    if weights.bits == 8:
        return codes
    return (codes[..., 0::2] | (codes[..., 1::2] << 4)).astype(np.uint8, copy=False)


def packed_zeros(zeros: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return zero points of 4 bits, u8 [rows, blocks], two in a byte: u8 [rows, half of the blocks, rounded up]."""
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return (even[:, 0::2] | (even[:, 1::2] << 4)).astype(np.uint8, copy=False)


def _kept(weights: LlamaWeights, names: Sequence[str]) -> BlockWeights:
    """Return blocks of 4 bits as they are: with a whole zero point each, and what that leaves over as a rest."""
    parts = [weights.four_bits(name) for name in names]
    codes, scales, lows = (np.concatenate(each) for each in zip(*parts, strict=True))
    if all(weights.kind(name) is GgmlType.Q4_0 for name in names):
        return BlockWeights(4, codes, scales)
    ratio = np.divide(-lows, scales, out=np.zeros_like(lows), where=scales != 0)
    zeros = np.clip(np.rint(ratio), 0, _TOP).astype(np.uint8)
    return BlockWeights(4, codes, scales, zeros, (lows + zeros * scales).astype(np.float32))
