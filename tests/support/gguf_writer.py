"""Writes GGUF files for tests, after the format's own description: none of the reader's code is used."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

F32, F16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K = 0, 1, 2, 3, 8, 12, 14
"""ggml's numbers of the types of tensors."""
U32, I32, FLOAT, BOOL, TEXT, LIST, U64 = 4, 5, 6, 7, 8, 9, 10
"""The format's numbers of the types of metadata."""
ALIGNMENT: Final = 32


class Raw:
    """A tensor whose bytes are written as they are."""

    def __init__(self, kind: int, shape: Sequence[int], data: bytes) -> None:
        self.kind = kind
        self.shape = tuple(shape)
        self.data = data


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(given: Any) -> bytes:  # noqa: PLR0911 - a type each
    """Return a value of metadata with its type before it."""
    match given:
        case bool():
            return struct.pack("<IB", BOOL, given)
        case int():
            return struct.pack("<II", U32, given)
        case float():
            return struct.pack("<If", FLOAT, given)
        case str():
            return struct.pack("<I", TEXT) + text(given)
        case [str(), *_]:
            elements = b"".join(map(text, given))
            return struct.pack("<IIQ", LIST, TEXT, len(given)) + elements
        case [int(), *_]:
            return struct.pack("<IIQ", LIST, I32, len(given)) + np.array(given, "<i4").tobytes()
        case [float(), *_]:
            return struct.pack("<IIQ", LIST, FLOAT, len(given)) + np.array(given, "<f4").tobytes()
        case _:
            raise TypeError(given)


def gguf(
    metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray | Raw], version: int = 3
) -> bytes:
    """Return the bytes of a file; arrays are written as f32 or f16, by their dtype."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value(given) for key, given in metadata.items())
    offset, infos, body = 0, b"", b""
    for name, given in tensors.items():
        tensor = given if isinstance(given, Raw) else floats(given)
        dims = tensor.shape[::-1]
        infos += text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        infos += struct.pack("<IQ", tensor.kind, offset)
        body += tensor.data + bytes(-len(tensor.data) % ALIGNMENT)
        offset = len(body)
    head += infos
    return head + bytes(-len(head) % ALIGNMENT) + body


def floats(array: np.ndarray) -> Raw:
    kind = {"float32": F32, "float16": F16}[array.dtype.name]
    return Raw(kind, array.shape, np.ascontiguousarray(array).tobytes())


def quantised(array: np.ndarray, kind: int) -> Raw:
    """Return a matrix in blocks of a type, by the plainest way of choosing scales."""
    if kind in {F32, F16}:
        return floats(array.astype({F32: np.float32, F16: np.float16}[kind]))
    size = 256 if kind in {Q4_K, Q6_K} else 32
    blocks = array.astype(np.float32).reshape(-1, size)
    return Raw(kind, array.shape, b"".join(_BLOCKS[kind](block) for block in blocks))


def _half(number: float) -> bytes:
    return np.float16(number).tobytes()


def _nibbles(codes: np.ndarray) -> bytes:
    return (codes[:16] | (codes[16:] << 4)).astype(np.uint8).tobytes()


def _q4_0(block: np.ndarray) -> bytes:
    scale = float(np.float16(np.abs(block).max() / 7)) or 1.0
    codes = np.clip(np.rint(block / scale) + 8, 0, 15).astype(np.uint8)
    return _half(scale) + _nibbles(codes)


def _q4_1(block: np.ndarray) -> bytes:
    low = float(np.float16(block.min()))
    scale = float(np.float16((block.max() - low) / 15)) or 1.0
    codes = np.clip(np.rint((block - low) / scale), 0, 15).astype(np.uint8)
    return _half(scale) + _half(low) + _nibbles(codes)


def _q8_0(block: np.ndarray) -> bytes:
    scale = float(np.float16(np.abs(block).max() / 127)) or 1.0
    codes = np.clip(np.rint(block / scale), -128, 127).astype(np.int8)
    return _half(scale) + codes.tobytes()


def _q4_k(block: np.ndarray) -> bytes:
    cut = block.reshape(8, 32)
    lows = np.maximum(-cut.min(-1), 0)
    spans = (cut.max(-1) + lows) / 15
    of_scales = float(np.float16(spans.max() / 63)) or 1.0
    of_lows = float(np.float16(lows.max() / 63)) or 1.0
    six = np.clip(np.rint(spans / of_scales), 1, 63).astype(np.uint8)
    six_low = np.clip(np.rint(lows / of_lows), 0, 63).astype(np.uint8)
    steps, bases = of_scales * six, of_lows * six_low
    codes = np.clip(np.rint((cut + bases[:, None]) / steps[:, None]), 0, 15).astype(np.uint8)
    packed = bytearray(12)
    for at in range(4):
        packed[at] = six[at] | (six[at + 4] >> 4) << 6
        packed[at + 4] = six_low[at] | (six_low[at + 4] >> 4) << 6
        packed[at + 8] = (six[at + 4] & 15) | (six_low[at + 4] & 15) << 4
    halves = b"".join(
        (codes[at] | (codes[at + 1] << 4)).astype(np.uint8).tobytes() for at in range(0, 8, 2)
    )
    return _half(of_scales) + _half(of_lows) + bytes(packed) + halves


def _q6_k(block: np.ndarray) -> bytes:
    cut = block.reshape(16, 16)
    steps = np.abs(cut).max(-1) / 31
    of_scales = float(np.float16(steps.max() / 127)) or 1.0
    eight = np.clip(np.rint(steps / of_scales), 1, 127).astype(np.int8)
    codes = np.clip(np.rint(cut / (of_scales * eight)[:, None]) + 32, 0, 63)
    codes = codes.astype(np.uint8).reshape(2, 4, 32)
    low, high = b"", b""
    for first, second, third, fourth in codes:
        low += ((first & 15) | ((third & 15) << 4)).tobytes()
        low += ((second & 15) | ((fourth & 15) << 4)).tobytes()
        pairs = (first >> 4) | ((second >> 4) << 2) | ((third >> 4) << 4) | ((fourth >> 4) << 6)
        high += pairs.astype(np.uint8).tobytes()
    return low + high + eight.tobytes() + _half(of_scales)


_BLOCKS: Final[dict[int, Callable[[np.ndarray], bytes]]] = {
    Q4_0: _q4_0,
    Q4_1: _q4_1,
    Q8_0: _q8_0,
    Q4_K: _q4_k,
    Q6_K: _q6_k,
}
