"""Reads a request's body within a time, a size and a budget, and unpacks it beside the event loop. IO: aiohttp, threads.

aiohttp would unpack what is compressed in its parser, on the loop, also what it only reads to throw away: a few hundred
kilobytes of zeros stopped a router for seconds. So it is told to leave bodies as they come.
"""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import StreamReader, web
from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest, Overloaded, TooLarge
from capamesh.router.http.body_budget import BodyBudget, Charge
from capamesh.router.http.errors import too_slow_text

BUDGET: Final = web.AppKey("budget", BodyBudget)
"""The application's key for the budget that all bodies together have; without it nothing is counted."""
CODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""The codings, with zlib's window bits: 15 for its own format, 16 more for gzip's. Some send "deflate" without zlib's frame."""
MOST_RATIO: Final = 200
"""Bytes out of one byte in, beyond a first megabyte (guess: JSON of one number over and over packs to a hundredth; what
packs better is cheaper to leave out than to send)."""
BUFFERED_BYTES: Final = 64 * 1024
"""The bytes that aiohttp has of a body before any of it is read here: a read of the front's, or twice `READ_BYTES` and a
smaller one."""
FREE_BYTES: Final = 2**20
PIECE_BYTES: Final = 2**20
"""Unpacked at a time (measured: 3 ms in a thread, which holds the interpreter for none of it)."""
_UNPACKERS: Final = ThreadPoolExecutor(2, thread_name_prefix="unpack")
"""The threads that unpack bodies, one each (guess); others wait for their next piece."""


class _Body(Charge):
    """A body that aiohttp reads, and what it is unpacked to."""

    __slots__ = ("_budget", "_content", "_woken", "data", "held_bytes", "is_given_up", "sent_bytes")

    def __init__(self, budget: BodyBudget | None, content: StreamReader) -> None:
        super().__init__()
        self._content = content
        self.held_bytes = 0
        """The bytes held for the request, once its body is here."""
        self._budget = budget
        self._woken: asyncio.Future[None] | None = None
        self.data = bytearray()
        self.sent_bytes = 0
        """The bytes that came over the wire."""
        self.is_given_up = False
        here_bytes = 0 if content.is_eof() else BUFFERED_BYTES
        if budget is not None and not budget.begin(self, here_bytes):
            raise _no_room()

    async def charge(self, size_bytes: int) -> None:
        """Take room for so much more, as soon as there is some; raise `Overloaded` when others need it more."""
        budget = self._budget
        if budget is None:
            return
        while not self.is_given_up and not budget.grow(self, size_bytes):
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        if self.is_given_up:
            raise _no_room()

    @override
    def go_on(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    @override
    def give_up(self) -> None:
        self.is_given_up = True
        self.data = bytearray()
        self._content.set_exception(_no_room())  # whoever waits for more of it is told
        self.go_on()

    @override
    def moved_bytes(self) -> int:
        return self.sent_bytes

    def arrived(self, held_bytes: int) -> None:
        """Hold so much for the request from now on. Raises `Overloaded`."""
        if self._budget is not None:
            if not self._budget.arrived(self, held_bytes):
                raise _no_room()
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
        raise _too_large(most_bytes)
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in CODINGS and coding != "identity":
        raise InvalidRequest(
            f"Content-Encoding is {coding[:80]!r}; it may be {', '.join(CODINGS)} or be left out"
        )
    release(request)
    body = _Body(request.app.get(BUDGET), request.content)
    request[_CHARGE] = body
    try:
        if request.content.is_eof():  # small bodies come with their head: no timer for them
            await _read(request, body, most_bytes)
        else:
            async with asyncio.timeout(arrival_s):
                await _read(request, body, most_bytes)
    except TimeoutError as exc:
        if body.is_waiting:  # for room: its client is not to blame
            raise _no_room() from exc
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
                whole = await _unpacked(body, coding, most_bytes)
        except TimeoutError as exc:
            raise _no_room() from exc
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
            raise _too_large(most_bytes)
        body.sent_bytes += len(chunk)
        await body.charge(len(chunk))
        body.data += chunk


async def _unpacked(body: _Body, coding: str, most_bytes: int) -> bytearray:
    """Return the body unpacked: a piece at a time, each in a thread."""
    loop = asyncio.get_running_loop()
    packed, unpacked = body.data, bytearray()
    is_bare = coding == "deflate" and packed[:1] and packed[0] & 15 != zlib.DEFLATED
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else CODINGS[coding])
    rest: bytes | bytearray = packed
    try:
        while not unpacker.eof:
            await body.charge(PIECE_BYTES)
            piece = await loop.run_in_executor(_UNPACKERS, unpacker.decompress, rest, PIECE_BYTES)
            rest = unpacker.unconsumed_tail
            unpacked += piece
            if len(unpacked) > most_bytes:
                raise _too_large(most_bytes)
            if len(unpacked) > FREE_BYTES + MOST_RATIO * len(packed):
                raise TooLarge(
                    f"the request's body unpacks to more than {MOST_RATIO} times its {len(packed)} bytes; send it as it"
                    " is"
                )
            if not piece and not rest:
                break
    except zlib.error as exc:
        raise InvalidRequest(f"the request's body cannot be decoded: {coding}: {exc}") from exc
    if not unpacker.eof or unpacker.unused_data:
        what = "goes on behind its end" if unpacker.eof else "ends too early"
        raise InvalidRequest(f"the request's body cannot be decoded: {coding}: it {what}")
    return unpacked


def _no_room() -> Overloaded:
    return Overloaded(
        "the router holds as many bytes of requests as it may; send it again later, or give the router a larger"
        " --body-budget-mib",
        1.0,
    )


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(f"the request's body is over the limit of {most_bytes} bytes")
