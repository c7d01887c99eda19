"""Reads the quantised numbers of GGUF: what they stand for, and blocks of 4 bits as they are. Pure.

The layouts are ggml's (ggml-common.h). A scale of 16 bits becomes one of 32, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from capamesh.node.tools.llm.gguf_file import BLOCKS, GgmlType

BLOCK: Final = 32
"""The numbers that share a scale in blocks of 4 bits, of all types."""
FOUR_BIT_TYPES: Final = frozenset({GgmlType.Q4_0, GgmlType.Q4_1, GgmlType.Q4_K})

_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


class FourBits(NamedTuple):
    """Rows of numbers in blocks of 4 bits: each is its code times the block's scale, and the block's low on top."""

    codes: npt.NDArray[np.uint8]
    """The codes of 0 to 15, u8 [rows, blocks, 32]."""
    scales: npt.NDArray[np.float32]
    """The scales, f32 [rows, blocks]."""
    lows: npt.NDArray[np.float32]
    """The numbers that code 0 stands for, f32 [rows, blocks]."""


def dequantised(kind: GgmlType, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the numbers, f32 [rows, numbers], that blocks of a type, u8 [rows, bytes of a row], stand for."""
    if kind is GgmlType.F32:
        return rows.view("<f4")
    if kind is GgmlType.F16:
        return rows.view("<f2").astype(np.float32)
    if kind is GgmlType.BF16:
        return (rows.view("<u2").astype(np.uint32) << 16).view(np.float32)
    numbers, size = BLOCKS[kind]
    blocks = rows.reshape(rows.shape[0], -1, size)
    return _READERS[kind](blocks).reshape(rows.shape[0], blocks.shape[1] * numbers)


def four_bits(kind: GgmlType, rows: npt.NDArray[np.uint8]) -> FourBits:
    """Return blocks of one of `FOUR_BIT_TYPES`, u8 [rows, bytes of a row], as codes, scales and lows of the shapes of `FourBits`."""
    blocks = rows.reshape(rows.shape[0], -1, BLOCKS[kind][1])
    if kind is GgmlType.Q4_0:
        scales = _half(blocks, 0)
        return FourBits(_nibbles(blocks[..., 2:]), scales, -8 * scales)
    if kind is GgmlType.Q4_1:
        return FourBits(_nibbles(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2))
    scales, lows = _k_scales(blocks)
    flat = (rows.shape[0], -1)
    codes = _k_nibbles(blocks[..., 16:]).reshape(*flat, BLOCK)
    return FourBits(codes, scales.reshape(flat), lows.reshape(flat))


def _half(blocks: _Bytes, at: int) -> _Floats:
    """Return the number of 16 bits at byte `at` of each block."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


def _nibbles(packed: _Bytes) -> _Bytes:
    """Return codes of 4 bits: the low halves of all bytes first, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], -1).astype(np.uint8, copy=False)


def _fifth_bits(blocks: _Bytes, at: int) -> _Bytes:
    """Return the 32 single bits at byte `at` of each block, the lowest first."""
    return np.unpackbits(blocks[..., at : at + 4], axis=-1, bitorder="little")


def _k_scales(blocks: _Bytes) -> tuple[_Floats, _Floats]:
    """Return the scales and lows, f32 [..., 8], of a super-block's blocks: 6 bits each, packed into 12 bytes from byte 4 on."""
    packed = blocks[..., 4:16]
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], -1)
    lows = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], -1)
    return (
        _half(blocks, 0)[..., None] * scales.astype(np.float32),
        -_half(blocks, 2)[..., None] * lows.astype(np.float32),
    )


def _k_nibbles(packed: _Bytes) -> _Bytes:
    """Return codes of 4 bits, [..., 8, 32]: 32 bytes have a block in their low halves and the next one in the high ones."""
    fours = packed.reshape(*packed.shape[:-1], 4, BLOCK)
    codes = np.stack([fours & 15, fours >> 4], -2).astype(np.uint8, copy=False)
    return codes.reshape(*packed.shape[:-1], 8, BLOCK)


def _q4(blocks: _Bytes, kind: GgmlType) -> _Floats:
    found = four_bits(kind, blocks.reshape(blocks.shape[0], -1))
    return found.codes * found.scales[..., None] + found.lows[..., None]


def _q5_0(blocks: _Bytes) -> _Floats:
    codes = _nibbles(blocks[..., 6:]) | (_fifth_bits(blocks, 2) << 4)
    return (codes.astype(np.float32) - 16) * _half(blocks, 0)[..., None]


def _q5_1(blocks: _Bytes) -> _Floats:
    codes = _nibbles(blocks[..., 8:]) | (_fifth_bits(blocks, 4) << 4)
    return codes * _half(blocks, 0)[..., None] + _half(blocks, 2)[..., None]


def _q8_0(blocks: _Bytes) -> _Floats:
    return blocks[..., 2:].view(np.int8) * _half(blocks, 0)[..., None]


def _q5_k(blocks: _Bytes) -> _Floats:
    scales, lows = _k_scales(blocks)
    places = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (blocks[..., None, 16:48] >> places) & 1
    codes = _k_nibbles(blocks[..., 48:]) | (fifth << 4)
    return codes * scales[..., None] + lows[..., None]


def _q6_k(blocks: _Bytes) -> _Floats:
    shape = blocks.shape[:-1]
    low = blocks[..., :128].reshape(*shape, 2, 1, 2, BLOCK)
    high = blocks[..., 128:192].reshape(*shape, 2, 1, 1, BLOCK)
    fours = np.concatenate([low & 15, low >> 4], -3).reshape(*shape, 2, 4, BLOCK)
    pairs = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None, None]) & 3
    codes = fours | (pairs.reshape(*shape, 2, 4, BLOCK) << 4)
    scales = blocks[..., 192:208].view(np.int8) * _half(blocks, 208)[..., None]
    values = codes.reshape(*shape, 16, 16).astype(np.float32) - 32
    found: _Floats = (values * scales[..., None]).astype(np.float32, copy=False)
    return found


_READERS: Final[dict[GgmlType, Callable[[_Bytes], npt.NDArray[Any]]]] = {
    GgmlType.Q4_0: lambda blocks: _q4(blocks, GgmlType.Q4_0),
    GgmlType.Q4_1: lambda blocks: _q4(blocks, GgmlType.Q4_1),
    GgmlType.Q4_K: lambda blocks: _q4(blocks, GgmlType.Q4_K),
    GgmlType.Q5_0: _q5_0,
    GgmlType.Q5_1: _q5_1,
    GgmlType.Q8_0: _q8_0,
    GgmlType.Q5_K: _q5_k,
    GgmlType.Q6_K: _q6_k,
}
