"""Rows are packed into full batches, in bounded memory, and none is lost."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from capamesh.router.jobs.inputs.rows import RowBatch
from capamesh.router.jobs.running import packing
from capamesh.router.jobs.running.packing import Packer, pieces_of, size_of


def batch(first: int, rows: int, width: int = 2) -> RowBatch:
    numbers = list(range(first, first + rows))
    values: Any = np.repeat(np.array(numbers, np.float32), width).reshape(rows, width)
    return RowBatch(numbers, [f"r{number}" for number in numbers], {"x": values})


def packed(packer: Packer, batches: list[RowBatch]) -> list[RowBatch]:
    found = [each for one in batches for each in packer.add(one)]
    return found + list(packer.rest())


def test_batches_are_full_over_the_ends_of_windows() -> None:
    found = packed(Packer(lambda: 8), [batch(0, 5), batch(5, 20), batch(25, 3)])
    assert [len(each.ids) for each in found] == [8, 8, 8, 4]
    assert [number for each in found for number in each.numbers] == list(range(28))
    for each in found:
        assert each.inputs["x"][:, 0].tolist() == each.numbers
        assert each.ids == [f"r{number}" for number in each.numbers]


def test_rows_of_other_shapes_are_packed_apart() -> None:
    found = packed(
        Packer(lambda: 4), [batch(0, 3), batch(3, 3, width=5), batch(6, 3), batch(9, 1, width=5)]
    )
    assert [(len(each.ids), each.inputs["x"].shape[1]) for each in found] == [
        (4, 2),
        (4, 5),
        (2, 2),
    ]


def test_no_row_is_lost_or_changed_whatever_the_windows() -> None:
    rng = random.Random(7)
    for _ in range(50):
        batches: list[RowBatch] = []
        first = 0
        while first < 200:
            rows = rng.randint(1, 40)
            batches.append(batch(first, rows, rng.choice((1, 2, 3))))
            first += rows
        packer = Packer(
            lambda: rng.randint(1, 50), lambda: rng.randint(1, 90), rng.choice((100, 10**6))
        )
        found = packed(packer, batches)
        assert sorted(number for each in found for number in each.numbers) == list(range(first))
        for each in found:
            assert each.inputs["x"][:, 0].tolist() == each.numbers


def files(*sizes: int) -> RowBatch:
    content = np.empty(len(sizes), object)
    content[:] = [bytes(size) for size in sizes]
    return RowBatch(
        list(range(len(sizes))), [f"r{at}" for at in range(len(sizes))], {"file": content}
    )


def test_batch_of_large_files_is_cut_by_bytes() -> None:
    found = list(pieces_of(files(40, 40, 40, 500, 1, 99, 1, 0, 0), 100))
    assert [list(each.numbers) for each in found] == [[0, 1], [2], [3], [4, 5], [6, 7, 8]]
    whole = files(50, 50)
    assert list(pieces_of(whole, 100)) == [whole]
    assert [each.rows for each in pieces_of(files(200), 100)] == [1]
    assert [each.rows for each in pieces_of(batch(0, 10), 24)] == [3, 3, 3, 1]


@pytest.mark.parametrize("seed", range(5))
def test_no_call_has_more_bytes_than_it_may_unless_one_row_has(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing.pieces_of, "__defaults__", (100,))
    rng = random.Random(seed)
    packer = Packer(lambda: 8, lambda: 16, most_bytes=300)
    numbers: list[int] = []
    for each in packed(packer, [files(*rng.choices(range(150), k=20)) for _ in range(10)]):
        assert each.rows <= 16
        assert each.rows == 1 or size_of(each) <= 100
        numbers += each.numbers
    assert sorted(numbers) == sorted(list(range(20)) * 10)
