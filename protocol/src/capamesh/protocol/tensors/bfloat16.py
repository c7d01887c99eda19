"""Conversion between bfloat16 bit patterns and wider floats, which numpy itself lacks. Pure.

A bfloat16 is the upper half of an IEEE 754 binary32: sign, 8 exponent bits, 7 fraction bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_QUIET_BIT = np.uint32(0x40)
"""The fraction bit that marks a NaN as quiet; set so that a NaN's payload never rounds to infinity."""


def bf16_from_fp32(array: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return the bfloat16 bit patterns nearest to `array`, ties to even, in the same shape.

    A NaN stays a NaN of the same sign; what is beyond bfloat16's range becomes infinity.
    """
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    kept = np.where(np.isnan(array), upper | _QUIET_BIT, rounded)
    return kept.astype(np.uint16).reshape(np.shape(array))


def bf16_from_fp64(array: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Return the bfloat16 bit patterns nearest to `array`, ties to even, in the same shape.

    Going through binary32 with ordinary rounding would round twice and miss some ties. So the first
    step rounds to odd: towards zero, with the last bit set where anything was cut off. (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", 2008.)
    """
    wide = np.ascontiguousarray(array, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        near = wide.astype(np.float32)
    bits = near.view(np.uint32)
    back = near.astype(np.float64)
    is_inexact = (back != wide) & ~np.isnan(wide)
    towards_zero = bits - (np.abs(back) > np.abs(wide)).astype(np.uint32)
    odd = np.where(is_inexact, towards_zero | np.uint32(1), bits)
    return bf16_from_fp32(odd.view(np.float32).reshape(np.shape(array)))


def fp32_from_bf16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return the exact float32 values of bfloat16 bit patterns, in the same shape."""
    wide = np.ascontiguousarray(bits, dtype=np.uint16).astype(np.uint32) << np.uint32(16)
    return wide.view(np.float32).reshape(np.shape(bits))
