"""Casts lose nothing, or the row is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.datatypes import Datatype
from capamesh.protocol.tensor_spec import TensorSpec
from capamesh.router.jobs.inputs.casts import cast_column


def cast_to(values: Any, datatype: Datatype, *row_shape: int) -> tuple[Any, dict[int, str]]:
    return cast_column(values, TensorSpec("x", datatype, (-1, *row_shape)))


def refused(value: Any, datatype: Datatype) -> str:
    """Return what is said of a value that stands between two that fit."""
    good: Any = {"O": "a", "b": True}.get(datatype.numpy_dtype.kind, 1)
    rows, wrong = cast_to([good, value, good], datatype)
    assert set(wrong) == {1}
    assert rows[1] is None
    assert rows[0] is not None
    assert rows[0].tolist() == rows[2].tolist()
    return wrong[1]


@pytest.mark.parametrize(
    ("value", "datatype", "words"),
    [
        (300, Datatype.UINT8, "300 does not fit UINT8, which takes whole numbers from 0 to 255"),
        (-1, Datatype.UINT64, "-1 does not fit UINT64"),
        (1.5, Datatype.INT64, "1.5 does not fit INT64"),
        (1e300, Datatype.INT64, "1e+300 does not fit"),
        (float("nan"), Datatype.INT64, "nan does not fit"),
        (2.0**53, Datatype.INT64, "does not fit INT64"),
        (2**64, Datatype.INT64, "18446744073709551616 does not fit"),
        (2**24 + 1, Datatype.FP32, "16777217 does not fit FP32"),
        (2**53 + 1, Datatype.FP64, "9007199254740993 does not fit FP64"),
        (2049, Datatype.FP16, "2049 does not fit FP16"),
        (1e39, Datatype.FP32, "1e+39 does not fit FP32"),
        (70000.0, Datatype.FP16, "70000.0 does not fit FP16"),
        (257, Datatype.BF16, "257 does not fit BF16"),
        (None, Datatype.FP32, "None does not fit FP32"),
        ("one", Datatype.FP32, "'one' does not fit FP32"),
        ("", Datatype.INT32, "'' does not fit INT32"),
        (1, Datatype.BOOL, "1 does not fit BOOL, which takes true and false"),
        (1, Datatype.BYTES, "1 does not fit BYTES, which takes texts"),
        ({"a": 1}, Datatype.FP32, "does not fit FP32"),
        ([1, 2], Datatype.FP32, "it has shape [2], the model takes []"),
    ],
)
def test_value_that_would_be_lost_is_refused_and_the_others_are_not(
    value: Any, datatype: Datatype, words: str
) -> None:
    assert words in refused(value, datatype)


def test_whole_number_beside_fractions_is_not_rounded() -> None:
    rows, wrong = cast_to([0.5, 2049, 2.0**60, 2049.0], Datatype.FP16)
    assert set(wrong) == {1, 2}
    assert [float(rows[at]) for at in (0, 3)] == [0.5, 2048.0]
    _, wrong = cast_to([[0.5, 2**53 + 1]], Datatype.FP64, 2)
    assert set(wrong) == {0}


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_array_that_would_be_lost_is_refused_row_by_row(dtype: type) -> None:
    rows, wrong = cast_to(np.array([[1, 2], [3, 256]], dtype), Datatype.UINT8, 2)
    assert rows[0].tolist() == [1, 2]
    assert set(wrong) == {1}
    assert "256" in wrong[1]


@pytest.mark.parametrize(
    ("value", "shape"),
    [([1, 2, 3], (2, 2)), ([[1, 2, 3], [4, 5, 6]], (3, 2)), ([[1], [2, 3]], (3,)), ([], (1,))],
)
def test_row_of_another_shape_is_refused(value: Any, shape: tuple[int, ...]) -> None:
    _, wrong = cast_to([value], Datatype.FP32, *shape)
    assert set(wrong) == {0}


def test_texts_and_bytes_become_bytes() -> None:
    rows, wrong = cast_to(["ä", b"\xff", ["a", "b"]], Datatype.BYTES)
    assert [each and each.item() for each in rows[:2]] == ["ä".encode(), b"\xff"]
    assert set(wrong) == {2}
    rows, _ = cast_to([["a", "b"]], Datatype.BYTES, 2)
    assert rows[0].tolist() == [b"a", b"b"]
    rows, _ = cast_to(["a"], Datatype.BYTES, 1)
    assert rows[0].tolist() == [b"a"]


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-300, 300),
    st.floats(allow_nan=False),
    st.floats(-300, 300).map(round).map(float),
)


@given(
    st.lists(NUMBERS, min_size=1, max_size=8),
    st.sampled_from(
        [each for each in Datatype if each.numpy_dtype.kind in "iuf" and each != "BF16"]
    ),
)
def test_value_that_is_cast_is_what_was_there(values: list[Any], datatype: Datatype) -> None:
    rows, wrong = cast_to(values, datatype)
    info: Any = np.finfo if datatype.numpy_dtype.kind == "f" else np.iinfo
    limits = info(datatype.numpy_dtype)
    for place, value in enumerate(values):
        if place in wrong:
            assert rows[place] is None
            continue
        found = rows[place].item()
        if isinstance(value, int) or datatype.numpy_dtype.kind != "f" or np.isinf(value):
            assert found == value
        else:
            assert np.isfinite(found)
            assert found == pytest.approx(value, rel=float(limits.eps), abs=float(limits.tiny))
