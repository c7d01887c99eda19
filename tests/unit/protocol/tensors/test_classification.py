from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.tensors import (
    MAX_CLASSES,
    Datatype,
    Tensor,
    TensorSpec,
    check_classifiable,
    classified,
    has_classes,
    has_rows,
)
from capamesh.protocol.tensors.classification import MAX_SCORES


def texts(
    array: Any, most: int, *labels: str, datatype: Datatype | None = None, is_by_rows: bool = True
) -> Any:
    given = Tensor.from_numpy("y", np.asarray(array), datatype)
    found = classified(given, most, labels, is_by_rows=is_by_rows)
    assert (found.name, found.datatype) == ("y", Datatype.BYTES)
    return found.to_numpy().tolist()


def test_equal_scores_keep_their_order_and_nan_counts_as_minus_infinity() -> None:
    scores = np.array([[7, np.nan, 7, -np.inf, np.inf]], np.float32)
    assert texts(scores, 5) == [
        [b"inf:4", b"7.000000:0", b"7.000000:2", b"nan:1", b"-inf:3"],
    ]


def test_all_dimensions_after_the_rows_are_the_scores_of_a_row() -> None:
    scores = np.arange(8, dtype=np.int32).reshape(2, 2, 2)
    assert texts(scores, 1) == [[b"3:3"], [b"7:3"]]
    assert texts(np.array([1, 3], np.int32), 2) == [[b"1:0"], [b"3:0"]]


def test_output_without_rows_is_one_list_of_scores() -> None:
    scores = np.arange(8, dtype=np.int32).reshape(2, 2, 2)
    assert texts(scores, 2, is_by_rows=False) == [b"7:7", b"6:6"]
    assert texts(np.float32(3), 2, is_by_rows=False) == [b"3.000000:0"]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0,)])
def test_output_without_scores_has_no_classes(shape: tuple[int, ...]) -> None:
    assert np.size(texts(np.zeros(shape, np.float32), 2)) == 0
    assert np.size(texts(np.zeros(shape, np.float32), 2, is_by_rows=False)) == 0


def test_equal_scores_of_many_that_are_chosen_keep_their_order() -> None:
    scores = np.random.default_rng(7).integers(0, 3, (1, 1000))
    (row,) = texts(scores, 500)
    found = [tuple(map(int, text.split(b":"))) for text in row]
    assert found == sorted(found, key=lambda each: (-each[0], each[1]))


@pytest.mark.parametrize(
    ("datatype", "shape", "expected"),
    [
        (Datatype.FP32, (-1, 3), True),
        (Datatype.UINT8, (3,), True),
        (Datatype.FP32, (), True),
        (Datatype.INT64, (-1,), False),
        (Datatype.FP32, (-1, 1), False),
        (Datatype.BYTES, (-1, 3), False),
        (Datatype.BOOL, (3,), False),
    ],
)
def test_output_has_classes_where_a_row_has_several_numbers(
    datatype: Datatype, shape: tuple[int, ...], expected: bool
) -> None:
    assert has_classes(TensorSpec("y", datatype, shape)) is expected


@pytest.mark.parametrize("datatype", [Datatype.BYTES, Datatype.BOOL])
def test_texts_and_truth_values_are_refused(datatype: Datatype) -> None:
    message = f"output 'y' is {datatype}, which are no scores: ask for it without classification"
    with pytest.raises(InvalidRequest, match=message):
        check_classifiable("y", datatype)
    with pytest.raises(InvalidRequest, match=message):
        classified(Tensor("y", datatype, (1,), b"\0"), 1, is_by_rows=True)


def test_too_many_scores_or_classes_are_refused() -> None:
    large = Tensor("y", Datatype.UINT8, (1, MAX_SCORES + 1), bytes(MAX_SCORES + 1))
    with pytest.raises(TooLarge, match=f"has {MAX_SCORES + 1} scores"):
        classified(large, 1, is_by_rows=True)
    wide = Tensor("y", Datatype.UINT8, (MAX_CLASSES + 1, 1), bytes(MAX_CLASSES + 1))
    with pytest.raises(TooLarge, match=f"would have {MAX_CLASSES + 1} classes"):
        classified(wide, 5, is_by_rows=True)


def test_largest_scores_of_each_row_come_first_with_index_and_label() -> None:
    scores = np.array([[1, 5, 10, 4], [0.5, 0.25, -1, 0]], np.float32)
    assert texts(scores, 2, "cat", "", "cow") == [
        [b"10.000000:2:cow", b"5.000000:1"],
        [b"0.500000:0:cat", b"0.250000:1"],
    ]
    assert texts(np.array([[0, 2**64 - 1]], np.uint64), 99) == [[b"18446744073709551615:1", b"0:0"]]


@pytest.mark.parametrize(
    ("shape", "dimensions", "by_rows"),
    [((-1, 3), 2, True), ((1, 3), 2, False), ((3,), 1, False), ((), 2, True), ((), 1, False)],
)
def test_open_first_dimension_counts_rows(
    shape: tuple[int, ...], dimensions: int, by_rows: bool
) -> None:
    assert has_rows(TensorSpec("y", Datatype.FP32, shape), dimensions) is by_rows
