"""Uploads to routers that lie about what they have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capamesh.client.asks import Ask
from capamesh.client.jobs.data import source_of
from capamesh.client.jobs.patience import Patience
from capamesh.client.jobs.steps import End, until_given
from capamesh.client.jobs.uploads import MOST_PIECE_BYTES, uploaded
from capamesh.protocol.errors import JobConflict, LinkLost, ProtocolViolation

SIZE = 3 * MOST_PIECE_BYTES


class World:
    """Time that passes only while a client waits."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits = 0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.waits += 1


def upload(file: Path, exchange: Callable[[Ask[Any]], Any], world: World) -> str:
    source = source_of(file)
    try:
        patience = Patience(lambda: world.now_s, lambda: 0.0)
        course = uploaded(source, "user_data", patience, lambda: world.now_s, None)
        end = until_given(course, exchange, world.sleep)
    finally:
        source.close()
    assert isinstance(end, End)
    return str(end.result)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as opened:
        opened.truncate(SIZE)
    return path


def test_pieces_become_larger_while_they_are_quick(file: Path) -> None:
    sizes: list[int] = []

    def answer(ask: Ask[Any]) -> Any:
        if ask.method == "PATCH":
            sizes.append(ask.size_bytes)
        return "file-1" if ask.method == "POST" else sum(sizes)

    assert upload(file, answer, World()) == "file-1"
    assert [size >> 20 for size in sizes] == [1, 2, 4, 8, 16, 16, 1]
    assert max(sizes) == MOST_PIECE_BYTES


def test_router_that_never_keeps_anything_is_given_up(file: Path) -> None:
    world = World()
    with pytest.raises(LinkLost, match="has 0 bytes of the upload after it took"):
        upload(file, lambda ask: "file-1" if ask.method == "POST" else 0, world)
    assert 250 < world.now_s < 301


def test_router_that_goes_back_and_forth_is_given_up(file: Path) -> None:
    told = iter([10, 0] * 10_000)
    world = World()
    with pytest.raises(LinkLost):
        upload(file, lambda ask: "file-1" if ask.method == "POST" else next(told), world)
    assert world.now_s < 301


@pytest.mark.parametrize("told", [SIZE + 1, -1])
def test_router_that_has_more_than_there_is_breaks_the_protocol(file: Path, told: int) -> None:
    with pytest.raises(ProtocolViolation, match="bytes of an upload of"):
        upload(file, lambda ask: "file-1" if ask.method == "POST" else told, World())


def test_refused_piece_is_the_callers_unless_the_router_has_another_length(file: Path) -> None:
    has = [5]

    def answer(ask: Ask[Any]) -> Any:
        if ask.method == "POST":
            return "file-1"
        if ask.method == "HEAD":
            return has[0]
        if int(ask.headers["Upload-Offset"]) != has[0]:
            raise JobConflict("another place")
        has[0] += ask.size_bytes
        return has[0]

    assert upload(file, answer, World()) == "file-1"

    def refuse(ask: Ask[Any]) -> Any:
        if ask.method == "PATCH":
            raise JobConflict("the file is whole")
        return "file-1" if ask.method == "POST" else 0

    with pytest.raises(JobConflict, match="the file is whole"):
        upload(file, refuse, World())
