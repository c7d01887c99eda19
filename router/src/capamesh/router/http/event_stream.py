"""Answers that last while their client reads: server-sent events, and lines of JSON. IO: aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from capamesh.router.http.half_closed import PROBE

EVENTS: Final = "text/event-stream"
HEAD_S: Final = 1.0
"""Seconds after which a stream's head goes, whether there is anything to send or not (guess): what goes wrong until then has a status."""
SILENCE_S: Final = 10.0
"""The most seconds of silence before a comment, which keeps proxies from hanging up (many do after 60)."""
_COMMENT: Final = b":\n\n"
"""An event without any data, which clients skip."""
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would keep events until it has a page of them
}


class DirectWriter:
    """Writes to the client of an answer that has begun, in the very turn of the loop in which something comes: no task has to wake up."""

    __slots__ = ("_is_chunked", "_protocol", "count")

    def __init__(self, request: web.Request) -> None:
        self._protocol = request.protocol
        self._is_chunked = request.version >= HttpVersion11
        self.count = 0
        """The times that it has written."""

    def write(self, data: bytes) -> bool:
        """Send `data`, unless the client has left or does not read as fast: then return False, and the answer's own `write` waits."""
        protocol = self._protocol
        transport = protocol.transport
        if transport is None or protocol.writing_paused or transport.is_closing():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
        self.count += 1
        return True


class _KeepAlive:
    """Writes a comment into an answer that says nothing for long."""

    __slots__ = ("_direct", "_head", "_loop", "_seen", "_timer")

    def __init__(self, head: AbstractStreamWriter, direct: DirectWriter) -> None:
        self._head = head
        self._direct = direct
        self._loop = asyncio.get_running_loop()
        self._seen = 0
        self._timer = self._loop.call_later(SILENCE_S / 2, self._look)

    def stop(self) -> None:
        """Write no more."""
        self._timer.cancel()

    def _look(self) -> None:
        """Write if nothing came since the last look but the head, so that no silence is longer than two."""
        written = self._head.output_size + self._direct.count
        if written == self._seen and self._head.output_size:
            self._direct.write(_COMMENT)
        self._seen = written
        self._timer = self._loop.call_later(SILENCE_S / 2, self._look)


async def soon(news: Awaitable[None]) -> bool:
    """Wait for `news` for as long as a stream's head may wait, and return whether they came."""
    try:
        async with asyncio.timeout(HEAD_S):
            await news
    except TimeoutError:
        return False
    return True


async def send_events(
    request: web.Request,
    headers: Mapping[str, str],
    write: Callable[[web.StreamResponse, DirectWriter], Awaitable[None]],
    *,
    most_s: float,
    media_type: str = EVENTS,
    is_late: bool = False,
) -> web.StreamResponse:
    """Return the answer that `write` has written, once all of it has been sent or its client has left.

    The head goes with what is written first, or at once where that `is_late`. A client that neither reads nor leaves is hung up on after `most_s`
    seconds.
    """
    content_type = f"{media_type}; charset=utf-8"
    response = web.StreamResponse(headers={"Content-Type": content_type, **_HEADERS, **headers})
    is_chunked = request.version >= HttpVersion11
    if not is_chunked:
        response.force_close()  # nothing else tells where it ends
    has_comments = media_type == EVENTS  # lines of JSON have nothing that clients skip
    if has_comments:
        chunk = b"%x\r\n%b\r\n" % (len(_COMMENT), _COMMENT)
        request[PROBE] = chunk if is_chunked else _COMMENT
    keep_alive: _KeepAlive | None = None
    try:
        async with asyncio.timeout(most_s):
            head = await response.prepare(request)
            if is_late and head is not None:
                head.send_headers()
            direct = DirectWriter(request)
            if has_comments and head is not None:
                keep_alive = _KeepAlive(head, direct)
            await write(response, direct)
    except (ConnectionError, TimeoutError):  # it has left, or neither reads nor leaves
        if request.transport is not None:
            request.transport.abort()
    finally:
        if keep_alive is not None:
            keep_alive.stop()
    return response
