"""Answers with the bytes of a file, or a range of them, a piece at a time. IO: aiohttp; the file, in threads.

The next piece is read once the client has taken the one before, so a slow client holds one. A client that takes nothing for as
long as a request may take to arrive is hung up on by the front.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import Final

from aiohttp import web

from capamesh.protocol.errors import InvalidRequest
from capamesh.router.http.openai_errors import openai_error
from capamesh.router.http.replies import OCTETS
from capamesh.router.jobs.uploads.uploads import in_thread

PIECE_BYTES: Final = 64 * 1024
"""The bytes that are sent at a time (guess: what a connection takes before it has to be waited for)."""


class RangeRefused(InvalidRequest):
    """The range that is asked for is none of the file's."""


async def send_file(
    request: web.Request, descriptor: int, size_bytes: int, tag: str, name: str
) -> web.StreamResponse:
    """Answer with the file of a descriptor, which has `size_bytes`, or with the range that the request asks for.

    `tag` is another one for other bytes, `name` the one that browsers keep it under. Raises `RangeRefused`.
    """
    first, end = _asked(request, size_bytes, tag)
    headers = {
        "Content-Type": OCTETS,
        "Accept-Ranges": "bytes",
        "ETag": f'"{tag}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f"attachment; filename*=UTF-8''{_encoded(name)}",
    }
    is_part = (first, end) != (0, size_bytes)
    if is_part:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size_bytes}"
    response = web.StreamResponse(status=206 if is_part else 200, headers=headers)
    response.content_length = end - first
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    while first < end:
        size = min(PIECE_BYTES, end - first)
        piece = b""
        with suppress(OSError):
            piece = await in_thread(partial(os.pread, descriptor, size, first))
        if not piece:  # it cannot be read, or somebody cut it off: the client sees that the answer is not whole
            if request.transport is not None:
                request.transport.abort()
            return response
        await response.write(piece)
        first += len(piece)
    await response.write_eof()
    return response


def range_refusal(error: RangeRefused, size_bytes: int) -> web.Response:
    """Return what says, in OpenAI's form, that a range is none of a file's (RFC 9110, 14.4)."""
    told = openai_error(error)
    told.set_status(416)
    told.headers["Content-Range"] = f"bytes */{size_bytes}"
    return told


def _asked(request: web.Request, size_bytes: int, tag: str) -> tuple[int, int]:
    """Return the first byte that is asked for, and the one behind the last."""
    condition = request.headers.get("If-Range")
    if "Range" not in request.headers or (condition is not None and condition != f'"{tag}"'):
        return 0, size_bytes
    try:
        asked = request.http_range
    except ValueError as exc:
        raise _refusal(request) from exc
    first, end = asked.start, asked.stop
    if first is not None and first < 0:  # the last bytes
        first, end = max(0, size_bytes + first), None
    first = first or 0
    end = size_bytes if end is None else min(end, size_bytes)
    if first >= end:
        raise _refusal(request)
    return first, end


def _refusal(request: web.Request) -> RangeRefused:
    return RangeRefused(
        f"Range is {request.headers['Range'][:80]!r}; one range of the file is expected, such as bytes=0-999"
    )


def _encoded(name: str) -> str:
    return "".join(
        chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"%{byte:02X}"
        for byte in name.encode("utf-8", "replace")
    )
