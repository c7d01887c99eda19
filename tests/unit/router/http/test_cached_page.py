from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from capamesh.protocol.errors import LocalError
from capamesh.router.http import cached_page
from capamesh.router.http.cached_page import CachedPage


class Clock:
    """Each look at it takes a millisecond."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


def pieces() -> Iterator[bytes]:
    for _ in range(100):
        yield b"x"


async def test_client_that_leaves_while_a_page_is_made_costs_no_more_than_one_that_stays() -> None:
    page = CachedPage(pieces, clock=(clock := Clock()), work_clock=clock)
    for _ in range(5):
        asker = asyncio.create_task(page.body())
        await asyncio.sleep(0)
        asker.cancel()
        await asyncio.gather(asker, return_exceptions=True)
    assert await page.body() == b"x" * 100
    assert page.made == 1


async def test_page_without_end_is_refused_and_not_begun_anew_for_each_who_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cached_page, "MOST_BYTES", 50)
    page = CachedPage(pieces, clock=(clock := Clock()), work_clock=clock)
    for _ in range(3):
        with pytest.raises(LocalError, match="over 50 bytes"):
            await page.body()
    assert page.made == 1
