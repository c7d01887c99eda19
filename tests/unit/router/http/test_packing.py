"""Long answers in JSON are packed for those who take them so."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from capamesh.router.http.packing import AT_ONCE, MOST_WAITING, Packer, taken_coding


async def test_rest_goes_as_it_is_when_there_is_much_to_pack() -> None:
    packer = Packer()
    done: list[bytes | None] = []
    begun = [packer.begin([b"x" * 10**6], done.append) for _ in range(20)]
    assert begun == [True] * (AT_ONCE + MOST_WAITING) + [False] * (14)
    while len(done) < AT_ONCE + MOST_WAITING:
        await asyncio.sleep(0.001)
    assert {gzip.decompress(each or b"") for each in done} == {b"x" * 10**6}
    assert packer.begin([b"x"], done.append)
    packer.close()
    assert not packer.begin([b"x"], done.append)
    assert packer._under_way == 1  # what it had begun, and no more


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("deflate, gzip", "gzip"),
        ("deflate, gzip;q=0", "deflate"),
        ("x-gzip, deflate", "x-gzip"),
        ("DEFLATE", "deflate"),
        ("br", ""),
        ("", ""),
    ],
)
def test_best_coding_that_a_client_takes_is_chosen(accepted: str, coding: str) -> None:
    assert taken_coding(accepted) == coding
