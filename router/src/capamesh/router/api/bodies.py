"""Reads a request's body within a time and a size. IO: aiohttp."""

from __future__ import annotations

import asyncio

from aiohttp import web

from capamesh.protocol.errors import TooLarge
from capamesh.router.api.errors import too_slow_text


async def read_body(request: web.Request, *, arrival_s: float, most_bytes: int) -> bytes:
    """Return the body, whether its length was announced or not.

    Raises `TooLarge` over `most_bytes`, as soon as that is known, and `HTTPRequestTimeout` when it has not
    arrived within `arrival_s`. A route that reads its body in any other way can be held open for ever.
    """
    if (request.content_length or 0) > most_bytes:
        raise _too_large(most_bytes)
    bounded = request.clone(client_max_size=most_bytes)
    try:
        if request.content.is_eof():  # small bodies come with their head: no timer for them
            return await bounded.read()
        async with asyncio.timeout(arrival_s):
            return await bounded.read()
    except web.HTTPRequestEntityTooLarge as exc:
        raise _too_large(most_bytes) from exc
    except TimeoutError as exc:
        text = too_slow_text(
            "the request's body",
            request.content.total_raw_bytes,
            request.content_length,
            arrival_s,
        )
        raise web.HTTPRequestTimeout(text=text) from exc


def _too_large(most_bytes: int) -> TooLarge:
    return TooLarge(f"the request's body is over the limit of {most_bytes} bytes")
