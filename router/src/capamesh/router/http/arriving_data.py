"""Reads what is too large for memory, as it comes: a body that is a file, or the parts of a form with one. IO: aiohttp.

Nothing of it counts against the budget of bodies: what is held is what aiohttp reads ahead, and as much again. Whoever sends too
slowly is given up after a while, however long the whole of it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from capamesh.protocol.errors import InvalidRequest
from capamesh.router.http.errors import too_slow_text

READ_BYTES: Final = 64 * 1024
"""The bytes of a part that are read at once."""
STEP_BYTES: Final = 64 * 1024
"""The bytes that have to come within the patience: 2 KiB a second at the usual one (guess: a bad telephone)."""
MAX_PARTS: Final = 16
"""The most parts of a form (guess: a file, and a few fields)."""
MAX_FIELD_BYTES: Final = 4096
_CODINGS: Final = frozenset({"", "binary", "8bit", "7bit"})

_T = TypeVar("_T")


class Patience:
    """The time that one client has for the next bytes. Time in which nobody waits for it does not count."""

    def __init__(self, request: web.Request, patience_s: float) -> None:
        """Give the client of a request `patience_s` for each `STEP_BYTES`."""
        self._request = request
        self._patience_s = patience_s
        self._left_s = patience_s
        self._step_bytes = 0
        self._loop = asyncio.get_running_loop()

    async def wait(self, coming: Awaitable[_T]) -> _T:
        """Return what comes; raises `HTTPRequestTimeout`: it took too long."""
        began_s = self._loop.time()
        try:
            async with asyncio.timeout(max(0.0, self._left_s)):
                return await coming
        except TimeoutError as exc:
            content = self._request.content
            text = too_slow_text(
                "the upload",
                content.total_raw_bytes,
                self._request.content_length,
                self._patience_s,
            )
            raise web.HTTPRequestTimeout(text=text) from exc
        finally:
            self._left_s -= self._loop.time() - began_s

    def moved(self, size_bytes: int) -> None:
        """Take in that so many bytes came."""
        self._step_bytes += size_bytes
        if self._step_bytes >= STEP_BYTES:
            self._step_bytes = 0
            self._left_s = self._patience_s


def check_plain(request: web.Request) -> None:
    """Raise `InvalidRequest` for a body that is packed."""
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding != "identity":
        raise InvalidRequest(
            f"Content-Encoding is {coding[:80]!r}; a file is sent as it is, and is kept so"
        )


async def body_pieces(request: web.Request, patience: Patience) -> AsyncIterator[bytes]:
    """Yield the body as it comes."""
    while data := await patience.wait(request.content.readany()):
        patience.moved(len(data))
        yield data


async def part_pieces(part: BodyPartReader, patience: Patience) -> AsyncIterator[bytes]:
    """Yield a part of a form as it comes; raises `InvalidRequest`: the form ends within it."""
    while not part.at_eof():
        data = await patience.wait(_read_form(part.read_chunk(READ_BYTES)))
        patience.moved(len(data))
        if data:
            yield data


async def form_parts(request: web.Request, patience: Patience) -> AsyncIterator[BodyPartReader]:
    """Yield the parts of a form, each of which is to be read before the next; raises `InvalidRequest`."""
    if request.content_type != "multipart/form-data":
        raise InvalidRequest(
            f"Content-Type is {request.content_type[:80]!r}; multipart/form-data with a file and its purpose is expected, or"
            " Upload-Length, Upload-Name and no body to begin an upload that can be continued"
        )
    try:
        reader = await request.multipart()
    except (ValueError, AssertionError) as exc:
        raise _broken(exc) from exc
    count = 0
    while (part := await patience.wait(_read_form(reader.next()))) is not None:
        count += 1
        if count > MAX_PARTS:
            raise InvalidRequest(f"the form has more than {MAX_PARTS} parts")
        if isinstance(part, MultipartReader):
            raise InvalidRequest("a part of the form is a form itself; send each file by itself")
        coding = part.headers.get("Content-Transfer-Encoding", "").lower()
        if coding not in _CODINGS:
            raise InvalidRequest(
                f"a part of the form is sent as {coding[:80]!r}; a file is sent as it is"
            )
        yield part


async def field_text(part: BodyPartReader, patience: Patience) -> str:
    """Return a part that is a short text. Raises `InvalidRequest`."""
    data = b""
    async for piece in part_pieces(part, patience):
        data += piece
        if len(data) > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"the field {(part.name or '')[:80]!r} has more than {MAX_FIELD_BYTES} bytes"
            )
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the field {(part.name or '')[:80]!r} is not UTF-8") from exc


async def _read_form(reading: Awaitable[_T]) -> _T:
    try:
        return await reading
    except (ValueError, RuntimeError, AssertionError, LookupError, HttpProcessingError) as exc:
        raise _broken(exc) from exc


def _broken(error: BaseException) -> InvalidRequest:
    words = str(error).partition("\n")[0][:200]
    return InvalidRequest(f"the form cannot be read: {words or type(error).__name__}")
