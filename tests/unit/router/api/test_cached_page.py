from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from capamesh.protocol.errors import LocalError
from capamesh.router.api import cached_page
from capamesh.router.api.cached_page import CachedPage


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


async def test_a_page_is_made_once_for_all_who_ask_meanwhile_and_lets_others_run() -> None:
    page = CachedPage(pieces, clock=Clock())
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    bodies = await asyncio.gather(*(page.body() for _ in range(50)))
    task.cancel()
    assert (set(bodies), page.made) == ({b"x" * 100}, 1)
    assert turns >= 20


async def test_a_page_is_kept_by_what_it_cost_and_no_longer_than_a_second() -> None:
    clock = Clock()
    cheap, dear = CachedPage(lambda: iter([b"a"]), clock=clock), CachedPage(pieces, clock=clock)
    await cheap.body()
    clock.now_s += 0.1
    await cheap.body()
    assert cheap.made == 2
    await dear.body()
    clock.now_s += 0.9
    await dear.body()
    assert dear.made == 1
    clock.now_s += 0.2
    await dear.body()
    assert dear.made == 2


async def test_who_leaves_while_a_page_is_made_leaves_it_to_the_next() -> None:
    page = CachedPage(pieces, clock=Clock())
    first = asyncio.create_task(page.body())
    await asyncio.sleep(0)
    second = asyncio.create_task(page.body())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"x" * 100


async def test_a_page_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_page, "MOST_BYTES", 50)
    with pytest.raises(LocalError, match="over 50 bytes"):
        await CachedPage(pieces, clock=Clock()).body()
