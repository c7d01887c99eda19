"""Answers of the front: errors, streams of events, pages that are kept, and what is packed."""

from __future__ import annotations

import asyncio
import gzip
import json
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import HttpVersion10, HttpVersion11

from capamesh.protocol.errors import (
    AdvertRejected,
    CapameshError,
    ClientError,
    LocalError,
    ModelFailed,
    NoEndpoint,
    Overloaded,
    PeerError,
    ShutOut,
    TooManyRequests,
    Unsatisfiable,
)
from capamesh.router.http import cached_page
from capamesh.router.http.cached_page import CachedPage
from capamesh.router.http.errors import error_response, status_of
from capamesh.router.http.event_stream import DirectWriter
from capamesh.router.http.packing import AT_ONCE, MOST_WAITING, Packer, taken_coding


class Socket:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_over = False

    def is_closing(self) -> bool:
        return self.is_over

    def write(self, data: bytes) -> None:
        self.written += data


@pytest.mark.parametrize(
    ("version", "written"),
    [(HttpVersion11, b"b\r\ndata: {}\n\n.\r\n1\r\nx\r\n"), (HttpVersion10, b"data: {}\n\n.x")],
)
def test_client_that_reads_gets_it_at_once_and_one_that_does_not_or_has_left_gets_nothing(
    version: Any, written: bytes
) -> None:
    socket = Socket()
    protocol = SimpleNamespace(transport=socket, writing_paused=False)
    request: Any = SimpleNamespace(protocol=protocol, version=version)
    writer = DirectWriter(request)
    assert writer.write(b"data: {}\n\n.")
    assert writer.write(b"x")
    protocol.writing_paused = True
    assert not writer.write(b"a")
    protocol.writing_paused, socket.is_over = False, True
    assert not writer.write(b"a")
    protocol.transport = None
    assert not writer.write(b"a")
    assert socket.written == written


def every(root: type[CapameshError] = CapameshError) -> list[type[CapameshError]]:
    return [root, *(found for child in root.__subclasses__() for found in every(child))]


@pytest.mark.parametrize(
    "kind", [kind for kind in every() if kind.__module__ == CapameshError.__module__]
)
def test_every_error_is_the_protocol_s_body_with_its_code(kind: type[CapameshError]) -> None:
    text = 'it said "no"\n\ud800\u20ac'
    error = kind("field", text) if issubclass(kind, AdvertRejected) else kind(text)
    response = error_response(error)
    assert response.content_type == "application/json"
    assert json.loads(response.body) == {"error": error.message, "code": error.code}
    assert response.headers["X-Capamesh-Error"] == kind.code
    may_wait = response.status in {429, 503} and kind not in {Unsatisfiable, ModelFailed, ShutOut}
    assert response.headers.get("Retry-After") == ("1" if may_wait else None)


@pytest.mark.parametrize(
    ("hint_s", "said"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (4.2, "5")]
)
def test_hint_is_rounded_up_to_whole_seconds(hint_s: float, said: str) -> None:
    kinds = (Overloaded, TooManyRequests, NoEndpoint)
    for error in [kind("come again", hint_s) for kind in kinds]:
        assert error_response(error).headers["Retry-After"] == said


def test_new_error_gets_its_nearest_ancestor_s_status() -> None:
    class OddError(ClientError):
        code = "odd"

    class StrangeError(PeerError):
        code = "strange"

    class OwnError(LocalError):
        code = "own"

    assert [status_of(kind("x")) for kind in (OddError, StrangeError, OwnError)] == [400, 500, 500]


@pytest.fixture
def page() -> CachedPage:
    """A page of a hundred bytes; each look at its clock takes a millisecond."""
    clock = count(step=0.001).__next__
    return CachedPage(lambda: iter([b"x"] * 100), clock=clock, work_clock=clock)


async def test_client_that_leaves_while_a_page_is_made_costs_no_more_than_one_that_stays(
    page: CachedPage,
) -> None:
    for _ in range(5):
        asker = asyncio.create_task(page.body())
        await asyncio.sleep(0)
        asker.cancel()
        await asyncio.gather(asker, return_exceptions=True)
    assert await page.body() == b"x" * 100
    assert page.made == 1


async def test_page_without_end_is_refused_and_not_begun_anew_for_each_who_asks(
    page: CachedPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_page, "MOST_BYTES", 50)
    for _ in range(3):
        with pytest.raises(LocalError, match="over 50 bytes"):
            await page.body()
    assert page.made == 1


async def test_rest_goes_as_it_is_when_there_is_much_to_pack() -> None:
    packer = Packer()
    done: list[bytes | None] = []
    all_are_done = asyncio.Event()

    def take(packed: bytes | None) -> None:
        done.append(packed)
        if len(done) == AT_ONCE + MOST_WAITING:
            all_are_done.set()

    begun = [packer.begin([b"x" * 10**6], take) for _ in range(20)]
    assert begun == [True] * (AT_ONCE + MOST_WAITING) + [False] * (14)
    await all_are_done.wait()
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
