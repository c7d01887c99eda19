from __future__ import annotations

import pytest

from capamesh.node.generation.pace import Pace


@pytest.mark.parametrize("max_chunk", [4, 5, 16, 33, 65, 512])
def test_no_run_has_one_token_more_than_tiles_and_none_leaves_one(max_chunk: int) -> None:
    for is_alone in (True, False):
        pace = Pace(0.08, max_chunk)
        for length in range(2, 700):
            left = length
            while left:
                count = pace.chunk(left, is_alone=is_alone)
                assert 2 <= count <= max(max_chunk, 3)
                assert count % 32 != 1
                left -= count
                assert left != 1


def test_chunks_grow_only_as_far_as_was_measured_to_keep_the_gap() -> None:
    pace = Pace(0.08, 512)
    assert pace.chunk(400, is_alone=False) == 32
    pace.decoded(4, 0.013, 0.013)
    pace.filled(512, 0.66)  # a large chunk costs less a token: it says nothing good of small ones
    assert pace.chunk(400, is_alone=False) == 32
    pace.filled(32, 0.064)
    assert pace.chunk(400, is_alone=False) == 32
    pace.filled(32, 0.2)
    assert pace.chunk(400, is_alone=False) == 16
    quick = Pace(0.08, 512)
    quick.decoded(4, 0.01, 0.01)
    assert quick.chunk(1000, is_alone=False) == 32
    quick.filled(32, 32 * 0.0002)  # larger ones cost no more a token
    assert quick.chunk(1000, is_alone=False) == 256


def test_size_that_was_once_too_slow_is_tried_again_after_quick_chunks_of_a_smaller_one() -> None:
    pace = Pace(0.08, 512)
    pace.decoded(4, 0.013, 0.013)
    pace.filled(64, 0.09)  # the first run of all
    sizes: list[int] = []
    for _ in range(12):
        size = pace.chunk(400, is_alone=False)
        pace.filled(size, size * 0.0006)
        sizes.append(size)
    assert sizes == [32] * 6 + [64] * 6
    pace.filled(64, 0.09)  # it is slower indeed
    assert pace.chunk(400, is_alone=False) == 32
