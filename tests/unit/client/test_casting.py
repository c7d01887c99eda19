from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from capamesh.client.casting import cast_array
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import Datatype


@pytest.mark.parametrize(
    ("array", "wanted", "made"),
    [
        (np.float64([1.5, np.inf]), Datatype.FP16, np.float16([1.5, np.inf])),
        (np.float64([3.0]), Datatype.INT8, np.int8([3])),
        (np.float64([-(2**63), 2**53]), Datatype.INT64, np.int64([-(2**63), 2**53])),
        (np.int64([0, 255]), Datatype.UINT8, np.uint8([0, 255])),
        (np.int64([1, 0]), Datatype.BOOL, np.array([True, False])),
        (np.int64([3]), Datatype.BF16, np.float32([3.0])),
        (np.float64([3.38e38, np.inf]), Datatype.BF16, np.float64([3.38e38, np.inf])),
        (np.int64([1, -1]), Datatype.UINT8, "-1"),
        (np.uint8([255]), Datatype.INT8, "255"),
        (np.int8([2]), Datatype.BOOL, "2"),
        (np.uint64([2**63]), Datatype.INT64, "9223372036854775808"),
        (np.float64([2.0**63]), Datatype.INT64, "9.223372036854776e+18"),
        (np.float64([1.5]), Datatype.INT32, "1.5"),
        (np.float64([np.nan]), Datatype.INT32, "nan"),
        (np.float64([70000.0]), Datatype.FP16, "70000.0"),
        (np.float64([1.0, 1e300]), Datatype.BF16, "1e+300"),
        (np.float32([3.4e38]), Datatype.BF16, "3.3999999521443642e+38"),
    ],
)
def test_number_that_fits_is_cast_and_one_that_does_not_is_named(
    array: Any, wanted: Datatype, made: Any
) -> None:
    if isinstance(made, str):
        with pytest.raises(InvalidRequest) as caught:
            cast_array(array, wanted, "input 'x'")
        said = f"input 'x': {made} cannot be cast to {wanted}, which the model takes"
        assert caught.value.message == said
        return
    found = cast_array(array, wanted, "input 'x'")
    assert found.dtype == made.dtype
    assert found.tolist() == made.tolist()
