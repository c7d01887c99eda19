"""How far two models agree: what counts as a decision, and by how much numbers differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from capamesh.node.tools.optimise.agreement import (
    Measure,
    OutputAgreement,
    OutputComparison,
)
from capamesh.protocol.tensors import Tensor

F = np.float32
NAN = float("nan")


def agreement(*runs: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> OutputAgreement:
    comparison = OutputComparison("y")
    for before, after in runs:
        comparison.add(Tensor.from_numpy("y", before), Tensor.from_numpy("y", after))
    return comparison.result()


def test_largest_of_the_last_axis_decides_over_all_runs() -> None:
    found = agreement(
        (np.array([[1, 2], [3, 1]], F), np.array([[1, 4], [3, 1]], F)),
        (np.array([[1, 2]], F), np.array([[2, 1]], F)),
    )
    assert found == OutputAgreement("y", Measure.ARGMAX, 2 / 3, 3, 2.0, 4 / 6)


def test_probabilities_are_judged_by_their_side_of_a_half() -> None:
    found = agreement(
        (np.array([[0.4], [0.6]], F), np.array([[0.6], [1.2]], F)),
        (np.array([[1.0], [0.0]], F), np.array([[0.5], [0.1]], F)),
    )
    assert (found.measure, found.share, found.decisions) == (Measure.HALF, 3 / 4, 4)
    one_is_none = agreement(
        (np.array([[0.4]], F), np.array([[0.6]], F)), (np.array([[1.1]], F), np.array([[1.1]], F))
    )
    assert (one_is_none.measure, one_is_none.share) == (Measure.SIGN, 1.0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])),
        (np.array(["a", "b", "", "c"], object), np.array(["a", "b", "", "d"], object)),
    ],
)
def test_outputs_that_are_no_floats_must_be_equal(
    before: npt.NDArray[Any], after: npt.NDArray[Any]
) -> None:
    assert agreement((before, after)) == OutputAgreement("y", Measure.EQUAL, 3 / 4, 4, 0.0, 0.0)


def test_nan_agrees_with_nan_alone_and_is_no_difference() -> None:
    broken = agreement((np.array([[1, 2], [NAN, 1]], F), np.array([[1, NAN], [NAN, 1]], F)))
    assert (broken.share, broken.largest_difference) == (0.5, 0.0)
    single = agreement((np.array([[1], [NAN], [NAN]], F), np.array([[NAN], [NAN], [-1]], F)))
    assert single.share == 1 / 3


@pytest.mark.parametrize(
    ("first", "second", "is_uniform"),
    [
        (np.array([[1, 2], [3, 4]], F), np.array([[0, 1]], F), True),
        (np.array([[1, 2], [3, 4]], F), np.array([[1, 0]], F), False),
        (np.array([[0.7], [0.8]], F), np.array([[0.9]], F), True),
        (np.array([[0.7], [0.8]], F), np.array([[0.1]], F), False),
        (np.array([7, 7]), np.array([8]), False),
        (np.ones((0, 2), F), np.ones((0, 2), F), True),
    ],
)
def test_original_that_decides_the_same_each_time_is_reported(
    first: npt.NDArray[Any], second: npt.NDArray[Any], *, is_uniform: bool
) -> None:
    assert agreement((first, first), (second, second)).is_uniform is is_uniform


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.bool_]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_every_output_agrees_with_itself(array: npt.NDArray[Any]) -> None:
    found = agreement((array, array))
    assert (found.share, found.largest_difference) == (1.0, 0.0)
