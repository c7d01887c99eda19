"""Blocks of GGUF stand for the numbers that ggml's own loops, written out number by number here, make of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from capamesh.node.tools.llm.gguf_blocks import FOUR_BIT_TYPES, dequantised, four_bits
from capamesh.node.tools.llm.gguf_file import BLOCKS, GgmlType

ROWS, BLOCKS_OF_ROW = 3, 2


def half(raw: bytes, at: int) -> np.float32:
    return np.frombuffer(raw[at : at + 2], "<f2").astype(np.float32)[0]


def q4_0(b: bytes) -> list[float]:
    return [
        ((b[2 + j % 16] >> (j // 16 * 4)) & 15) * half(b, 0) - 8 * half(b, 0) for j in range(32)
    ]


def q4_1(b: bytes) -> list[float]:
    return [((b[4 + j % 16] >> (j // 16 * 4)) & 15) * half(b, 0) + half(b, 2) for j in range(32)]


def q5(b: bytes, qh: int, qs: int, j: int) -> int:
    high = int.from_bytes(b[qh : qh + 4], "little") >> j & 1
    return ((b[qs + j % 16] >> (j // 16 * 4)) & 15) | high << 4


def q5_0(b: bytes) -> list[float]:
    return [(q5(b, 2, 6, j) - 16) * half(b, 0) for j in range(32)]


def q5_1(b: bytes) -> list[float]:
    return [q5(b, 4, 8, j) * half(b, 0) + half(b, 2) for j in range(32)]


def q8_0(b: bytes) -> list[float]:
    return [int(np.int8(np.uint8(b[2 + j]))) * half(b, 0) for j in range(32)]


def scale_min(b: bytes, j: int) -> tuple[int, int]:
    """Return a block's 6 bits of scale and of low, as `get_scale_min_k4` of ggml does."""
    q = b[4:16]
    if j < 4:
        return q[j] & 63, q[j + 4] & 63
    return (q[j + 4] & 15) | (q[j - 4] >> 6) << 4, (q[j + 4] >> 4) | (q[j] >> 6) << 4


def k_value(b: bytes, code: int, block: int) -> np.float32:
    scale, low = scale_min(b, block)
    return half(b, 0) * np.float32(scale) * np.float32(code) - half(b, 2) * np.float32(low)


def q4_k(b: bytes) -> list[float]:
    return [
        k_value(b, (b[16 + j // 64 * 32 + j % 32] >> (j // 32 % 2 * 4)) & 15, j // 32)
        for j in range(256)
    ]


def q5_k(b: bytes) -> list[float]:
    out = []
    for j in range(256):
        low = (b[48 + j // 64 * 32 + j % 32] >> (j // 32 % 2 * 4)) & 15
        high = b[16 + j % 32] >> (j // 32) & 1
        out.append(k_value(b, low | high << 4, j // 32))
    return out


def q6_k(b: bytes) -> list[float]:
    out = []
    for j in range(256):
        part, group, at = j // 128, j % 128 // 32, j % 32
        low = b[part * 64 + group % 2 * 32 + at] >> (group // 2 * 4) & 15
        high = b[128 + part * 32 + at] >> (group * 2) & 3
        scale = int(np.int8(np.uint8(b[192 + j // 16])))
        out.append(np.float32(scale) * half(b, 208) * np.float32((low | high << 4) - 32))
    return out


READERS: dict[GgmlType, Callable[[bytes], list[float]]] = {
    GgmlType.Q4_0: q4_0,
    GgmlType.Q4_1: q4_1,
    GgmlType.Q5_0: q5_0,
    GgmlType.Q5_1: q5_1,
    GgmlType.Q8_0: q8_0,
    GgmlType.Q4_K: q4_k,
    GgmlType.Q5_K: q5_k,
    GgmlType.Q6_K: q6_k,
}


def blocks(kind: GgmlType) -> np.ndarray:
    """Return any bytes whose scales are numbers, u8 [ROWS, bytes of a row]."""
    size = BLOCKS[kind][1]
    rng = np.random.default_rng(int(kind))
    raw = rng.integers(0, 256, (ROWS * BLOCKS_OF_ROW, size), np.uint8)
    for at in (0, 2) if kind is not GgmlType.Q6_K else (208,):
        scales = rng.standard_normal(len(raw)).astype("<f2")
        raw[:, at : at + 2] = scales[:, None].view(np.uint8)
    return raw.reshape(ROWS, -1)


@pytest.mark.parametrize("kind", READERS)
def test_blocks_stand_for_what_ggml_makes_of_them(kind: GgmlType) -> None:
    rows = blocks(kind)
    size = BLOCKS[kind][1]
    expected = [
        [
            value
            for at in range(0, rows.shape[1], size)
            for value in READERS[kind](row[at : at + size].tobytes())
        ]
        for row in rows
    ]
    found = dequantised(kind, rows)
    assert found.dtype == np.float32
    assert found.shape == (ROWS, BLOCKS_OF_ROW * BLOCKS[kind][0])
    np.testing.assert_allclose(found, np.array(expected, np.float32), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(FOUR_BIT_TYPES))
def test_blocks_of_four_bits_are_codes_scales_and_lows(kind: GgmlType) -> None:
    rows = blocks(kind)
    found = four_bits(kind, rows)
    assert found.codes.shape == (ROWS, BLOCKS_OF_ROW * BLOCKS[kind][0] // 32, 32)
    assert found.codes.max() <= 15
    values = found.codes * found.scales[..., None] + found.lows[..., None]
    np.testing.assert_array_equal(values.reshape(ROWS, -1), dequantised(kind, rows))


def test_floats_are_taken_as_they_are() -> None:
    numbers = np.array([[1.5, -2.25, 65280.0]], np.float32)
    wide = numbers.view(np.uint32)
    forms = {
        GgmlType.F32: numbers.view(np.uint8),
        GgmlType.F16: np.array([[1.5, -2.25, 65280.0]], np.float16).view(np.uint8),
        GgmlType.BF16: (wide >> 16).astype(np.uint16).view(np.uint8),
    }
    for kind, rows in forms.items():
        np.testing.assert_array_equal(dequantised(kind, rows), numbers)
