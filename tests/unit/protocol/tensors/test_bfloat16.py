from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.tensors import bf16_from_fp32, bf16_from_fp64, fp32_from_bf16

_ALL_BITS = np.arange(2**16, dtype=np.uint16)


def test_every_bit_pattern_survives_the_way_to_fp32_and_back_but_signalling_nans_turn_quiet() -> (
    None
):
    values = fp32_from_bf16(_ALL_BITS)
    back = bf16_from_fp32(values)
    is_nan = np.isnan(values)
    assert (back[~is_nan] == _ALL_BITS[~is_nan]).all()
    assert (back[is_nan] == _ALL_BITS[is_nan] | 0x40).all()


def test_rounding_is_that_of_an_independent_bfloat16_on_random_bit_patterns() -> None:
    bits = np.random.default_rng(20).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    with np.errstate(over="ignore"):
        theirs = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(bf16_from_fp32(values), theirs)


def test_ties_go_to_the_even_pattern_and_what_is_beyond_the_range_to_infinity() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0xFF7FFFFF], np.uint32)
    rounded = bf16_from_fp32(bits.view(np.float32))
    assert rounded.tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0xFF80]


def test_fp64_just_above_a_tie_rounds_up_although_fp32_cannot_tell_it_from_the_tie() -> None:
    above_tie = 1.0 + 2.0**-8 + 2.0**-40
    assert bf16_from_fp64(np.array([above_tie])).tolist() == [0x3F81]
    assert bf16_from_fp32(np.array([above_tie], np.float32)).tolist() == [0x3F80]


@given(st.floats(-3e38, 3e38) | st.floats(-1e-38, 1e-38))
def test_fp64_goes_to_the_nearest_bfloat16_by_exact_arithmetic(value: float) -> None:
    got = int(bf16_from_fp64(np.array([value]))[0])
    distance = _distance(got, value)
    for other in (got - 1, got + 1):
        if other & 0x7FFF < 0x7F80 and 0 <= other < 2**16:
            other_distance = _distance(other, value)
            assert distance < other_distance or (distance == other_distance and got % 2 == 0)


def _distance(bits: int, value: float) -> Fraction:
    near = float(fp32_from_bf16(np.array([bits], np.uint16))[0])
    return abs(Fraction(near) - Fraction(value))
