"""What a run takes, fitted to what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from capamesh.node.scheduling.run_need import MARGIN, RunNeed, RunSample, elements_of, fitted
from capamesh.protocol.tensors import Tensor

NEED = RunNeed(elements=64, linear_bytes=10.0, square_bytes=0.5, element_s=0.001)


def test_run_takes_memory_in_proportion_to_its_rows_and_more_than_that_to_their_length() -> None:
    assert MARGIN == 1.5
    assert NEED.bytes_of(1, 64) == NEED.row_bytes == 1.5 * (640 + 0.5 * 64**2)
    assert NEED.bytes_of(7, 64) == 7 * NEED.row_bytes
    assert NEED.bytes_of(1, 640) == 1.5 * (6_400 + 0.5 * 640**2)
    assert NEED.bytes_of(1, 0) == 0


def test_longer_rows_take_more_time_and_shorter_ones_are_not_believed_to_take_less() -> None:
    assert NEED.more_s(3, 74) == pytest.approx(0.030)
    assert NEED.more_s(3, 64) == NEED.more_s(3, 1) == 0


def test_one_sample_gives_a_need_in_proportion() -> None:
    need = fitted(RunSample(8, 10, 8_000, 0.1), None, least_row_bytes=1)
    assert need == RunNeed(elements=10, linear_bytes=100.0)


def test_run_takes_at_least_what_goes_in_and_comes_out() -> None:
    need = fitted(RunSample(8, 10, 0, 0.1), None, least_row_bytes=40)
    assert need == RunNeed(elements=10, linear_bytes=4.0)


def test_little_more_an_element_in_longer_rows_is_the_rounding_of_pools() -> None:
    need = fitted(RunSample(1, 10, 1_000, 0.1), RunSample(1, 80, 10_000, 0.8), least_row_bytes=1)
    assert need == RunNeed(10, 125.0, 0.0, pytest.approx(0.01))


def test_much_more_an_element_in_longer_rows_is_a_square() -> None:
    usual = RunSample(4, 64, 4 * (100 * 64 + 2 * 64**2), 0.004)
    longer = RunSample(1, 512, 100 * 512 + 2 * 512**2, 0.001)
    need = fitted(usual, longer, least_row_bytes=1)
    assert (need.linear_bytes, need.square_bytes) == pytest.approx((100.0, 2.0))
    assert need.element_s == 0.0  # it took no longer


def test_text_is_one_element_whatever_its_length() -> None:
    texts = Tensor.from_numpy("t", np.array([[b"a" * 1000, b""]], object))
    numbers = Tensor.from_numpy("x", np.zeros((3, 5), np.float32))
    assert elements_of([texts, numbers]) == 2 + 15
    assert elements_of([]) == 0
