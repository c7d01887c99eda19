"""The bytes that tell one request from another."""

from __future__ import annotations

import numpy as np

from capamesh.node.devices.request_digest import request_digest
from capamesh.protocol.tensors import Tensor


def x(array: object, name: str = "x") -> Tensor:
    return Tensor.from_numpy(name, np.array(array, np.float32))


def test_values_shapes_and_the_number_of_tensors_are_reported_apart() -> None:
    requests = [[x([[1, 2]])], [x([[1, 3]])], [x([[1], [2]])], [x([1]), x([2])], [x([1, 2])]]
    assert len({request_digest(request) for request in requests}) == len(requests)


def test_large_tensors_are_reported_apart_by_their_length_and_by_what_is_spread_over_them() -> None:
    zeros = np.zeros(1_000_000, np.float32)
    halves = zeros.copy()
    halves[500_000:] = 1.7
    digests = {request_digest([x(array)]) for array in (zeros, halves, zeros[:-1])}
    assert len(digests) == 3


def test_large_tensors_of_small_whole_numbers_are_reported_apart() -> None:
    rows = [np.full((1, 8192), value) for value in range(1, 8)]
    assert len({request_digest([x(row)]) for row in rows}) == len(rows)
