"""Answers that last while their client reads: server-sent events, and lines of JSON. IO: aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import HttpVersion11, web

from capamesh.router.http.half_closed import PROBE

EVENTS: Final = "text/event-stream"
_COMMENT: Final = b":\n\n"
"""An event without any data, which clients skip."""
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would keep events until it has a page of them
}


class DirectWriter:
    """Writes to the client of an answer that has begun, in the very turn of the loop in which something comes: no task has to wake up."""

    __slots__ = ("_is_chunked", "_protocol")

    def __init__(self, request: web.Request) -> None:
        self._protocol = request.protocol
        self._is_chunked = request.version >= HttpVersion11

    def write(self, data: bytes) -> bool:
        """Send `data`, unless the client has left or does not read as fast: then return False, and the answer's own `write` waits."""
        protocol = self._protocol
        transport = protocol.transport
        if transport is None or protocol.writing_paused or transport.is_closing():
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)
        return True


async def send_events(
    request: web.Request,
    headers: Mapping[str, str],
    write: Callable[[web.StreamResponse], Awaitable[None]],
    *,
    most_s: float,
    media_type: str = EVENTS,
) -> web.StreamResponse:
    """Return the answer that `write` has written, once all of it has been sent or its client has left.

    A client that neither reads nor leaves is hung up on after `most_s` seconds.
    """
    content_type = f"{media_type}; charset=utf-8"
    response = web.StreamResponse(headers={"Content-Type": content_type, **_HEADERS, **headers})
    is_chunked = request.version >= HttpVersion11
    if not is_chunked:
        response.force_close()  # nothing else tells where it ends
    if media_type == EVENTS:  # lines of JSON have nothing that clients skip
        chunk = b"%x\r\n%b\r\n" % (len(_COMMENT), _COMMENT)
        request[PROBE] = chunk if is_chunked else _COMMENT
    try:
        async with asyncio.timeout(most_s):
            await response.prepare(request)
            await write(response)
    except (ConnectionError, TimeoutError):  # it has left, or neither reads nor leaves
        if request.transport is not None:
            request.transport.abort()
    return response
