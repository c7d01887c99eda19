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


async def test_page_is_made_once_for_all_who_ask_meanwhile_and_lets_others_run() -> None:
    page = CachedPage(pieces, clock=(clock := Clock()), work_clock=clock)
    supervisor = 0

    async def other() -> None:
        nonlocal supervisor
        while True:
            await asyncio.sleep(0)
            supervisor += 1

    task = asyncio.create_task(other())
    bodies = await asyncio.gather(*(page.body() for _ in range(50)))
    task.cancel()
    assert (set(bodies), page.made) == ({b"x" * 100}, 1)
    assert supervisor >= 20


async def test_page_is_kept_by_what_it_cost() -> None:
    clock = Clock()
    cheap, dear = (
        CachedPage(lambda: iter([b"a"]), clock=clock, work_clock=clock),
        CachedPage(pieces, clock=clock, work_clock=clock),
    )
    await cheap.body()
    clock.now_s += 0.1
    await cheap.body()
    assert cheap.made == 2
    await dear.body()
    clock.now_s += 1.9  # a hundred pieces of a millisecond: two seconds
    await dear.body()
    assert dear.made == 1
    clock.now_s += 2.0
    await dear.body()
    assert dear.made == 2


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


async def test_crash_while_a_page_is_made_is_reported_to_all_who_ask() -> None:
    def broken() -> Iterator[bytes]:
        yield b""
        raise ZeroDivisionError

    page = CachedPage(broken, clock=(clock := Clock()), work_clock=clock)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await page.body()
