"""Reads a request's body within a time, a size and a budget, and unpacks it beside the event loop. IO: aiohttp, threads.

aiohttp would unpack what is compressed in its parser, on the loop, also what it only reads to throw away: a few hundred
kilobytes of zeros stopped a router for seconds. So it is told to leave bodies as they come.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import StreamReader, web
from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest
from capamesh.router.http.body_budget import BodyBudget
from capamesh.router.http.connections import site_of
from capamesh.router.http.errors import too_slow_text
from capamesh.router.http.unpacking import CODINGS, WaitingCharge, no_room, too_large, unpacked

BUDGET: Final = web.AppKey("budget", BodyBudget)
"""The application's key for the budget that all bodies together have; without it nothing is counted."""
BUFFERED_BYTES: Final = 64 * 1024
"""The bytes that aiohttp has of a body before any of it is read here: a read of the front's, or twice `aiohttp_handlers.READ_BYTES` and a
smaller one."""


class _Body(WaitingCharge):
    """A body that aiohttp reads, and what it is unpacked to."""

    __slots__ = ("_content", "data", "held_bytes", "sent_bytes")

    def __init__(self, budget: BodyBudget | None, content: StreamReader, site: str) -> None:
        super().__init__(budget, 0 if content.is_eof() else BUFFERED_BYTES, site)
        self._content = content
        self.held_bytes = 0
        """The bytes held for the request, once its body is here."""
        self.data = bytearray()
        self.sent_bytes = 0
        """The bytes that came over the wire."""

    @override
    def give_up(self) -> None:
        self.data = bytearray()
        self._content.set_exception(no_room())  # whoever waits for more of it is told
        super().give_up()

    @override
    def moved_bytes(self) -> int:
        return self.sent_bytes

    def arrived(self, held_bytes: int) -> None:
        """Hold so much for the request from now on. Raises `Overloaded`."""
        if self._budget is not None:
            if not self._budget.arrived(self, held_bytes):
                raise no_room()
            self.held_bytes = held_bytes

    def release(self) -> None:
        """Forget it."""
        if self._budget is not None:
            self._budget.release(self)
            held_bytes, self.held_bytes = self.held_bytes, 0
            if held_bytes:
                self._budget.let_go(held_bytes)


_CHARGE: Final = web.RequestKey("charge", _Body)


async def read_body(request: web.Request, *, arrival_s: float, most_bytes: int) -> bytes:
    """Return a body that is small: a copy of what `read_large_body` returns."""
    return bytes(await read_large_body(request, arrival_s=arrival_s, most_bytes=most_bytes))


async def read_large_body(
    request: web.Request, *, arrival_s: float, most_bytes: int, weight: int = 1
) -> memoryview:
    """Return the body, unpacked, whether its length was announced or not; `weight` times its size is held for it.

    Raises:
        TooLarge: It has more than `most_bytes`, packed or not, as soon as that is known; or it unpacks to far too much.
        InvalidRequest: Its coding is not known, or broken.
        Overloaded: There is no room for it.
        HTTPRequestTimeout: It has not arrived within `arrival_s`.

    A route that reads its body in any other way can be held open for ever.
    """
    if (request.content_length or 0) > most_bytes:
        raise too_large(most_bytes)
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in CODINGS and coding != "identity":
        raise InvalidRequest(
            f"Content-Encoding is {coding[:80]!r}; it may be {', '.join(CODINGS)} or be left out"
        )
    release(request)
    body = _Body(request.app.get(BUDGET), request.content, site_of(request.remote or ""))
    request[_CHARGE] = body
    try:
        if request.content.is_eof():  # small bodies come with their head: no timer for them
            await _read(request, body, most_bytes)
        else:
            async with asyncio.timeout(arrival_s):
                await _read(request, body, most_bytes)
    except TimeoutError as exc:
        if body.is_waiting:  # for room: its client is not to blame
            raise no_room() from exc
        text = too_slow_text(
            "the request's body",
            request.content.total_raw_bytes,
            request.content_length,
            arrival_s,
        )
        raise web.HTTPRequestTimeout(text=text) from exc
    whole = body.data
    if coding != "identity":
        body.is_busy = True
        try:
            async with asyncio.timeout(arrival_s):
                whole = await unpacked(body.data, coding, most_bytes, body)
        except TimeoutError as exc:
            raise no_room() from exc
    body.data = bytearray()
    body.arrived(len(whole) * weight)
    return memoryview(whole)


def release(request: web.Request) -> None:
    """Give back what a request's body had of the budget; may be told again."""
    body = request.get(_CHARGE)
    if body is not None:
        body.release()


async def _read(request: web.Request, body: _Body, most_bytes: int) -> None:
    content = request.content
    while chunk := await content.readany():
        if len(body.data) + len(chunk) > most_bytes:
            raise too_large(most_bytes)
        body.sent_bytes += len(chunk)
        await body.charge(len(chunk))
        body.data += chunk
