"""The connections of an asynchronous client to its routers. IO: sockets through aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import Access
from capamesh.client.address import RouterAddress
from capamesh.client.answers import Answer
from capamesh.client.arriving import ArrivingBody
from capamesh.client.asks import Ask
from capamesh.client.rest import AsyncRest
from capamesh.client.timings import Timings
from capamesh.protocol.errors import LocalError, TooLarge
from capamesh.protocol.oip import HEADER_LENGTH_NAME

_JOINED_BYTES = 64 * 1024
"""Bodies up to this size leave in one piece with their header (guess: a copy costs less than a write)."""


class AsyncConnections:
    """The connections to all routers, for one event loop."""

    def __init__(self, access: Access, max_connections: int) -> None:
        self._access = access
        self._max_connections = max_connections
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._is_closed = False

    async def close(self) -> None:
        """Close all connections; requests under way fail. May be called again."""
        self._is_closed = True
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def exchange(self, router: RouterAddress, ask: Ask[Any], deadline_s: float) -> Answer:
        """Return a router's answer, whatever its status; raise what `asks` has for one that does not come.

        `deadline_s` is a time of the running loop.
        """
        if self._is_closed:
            raise LocalError("this client is closed; make another one")
        url, way = router.url, _Way()
        try:
            async with asyncio.timeout_at(deadline_s):
                try:
                    return await self._send(url, ask, way, deadline_s, is_fresh=False)
                except _NothingReadError:
                    if not way.is_reused:
                        raise
                    # the router dropped the connection while it was idle: once more, on a new one
                    return await self._send(url, ask, way, deadline_s, is_fresh=True)
        except aiohttp.ConnectionTimeoutError as exc:
            why = f"no connection within {asks.CONNECT_LIMIT_S:g} s"
            raise asks.unreachable(url, why) from exc
        except TimeoutError as exc:
            raise asks.too_late(url, ask) from exc
        except _NothingReadError as exc:
            raise asks.cut_off(url, str(exc)) from exc
        except aiohttp.ClientConnectorCertificateError as exc:
            raise asks.unreachable(url, asks.why_not(exc.certificate_error)) from exc
        except aiohttp.ClientConnectorError as exc:
            why = asks.why_not(exc.os_error)
            raise asks.unreachable(url, why) from exc
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as exc:
            raise asks.cut_off(url, _first_line(exc)) from exc
        except aiohttp.ClientError as exc:
            raise asks.not_http(url, _first_line(exc)) from exc

    async def _send(
        self, url: str, ask: Ask[Any], way: _Way, deadline_s: float, *, is_fresh: bool
    ) -> Answer:
        is_large = ask.size_bytes > _JOINED_BYTES
        own = {**ask.headers, "Content-Length": str(ask.size_bytes)}
        request = self._session(is_fresh=is_fresh).request(
            ask.method,
            url + ask.path,
            data=_Body(ask.buffers, ask.size_bytes) if is_large else b"".join(ask.buffers),
            headers=self._access.with_own(own),
            ssl=self._access.tls if url.startswith("https:") else True,
            allow_redirects=False,
            trace_request_ctx=way,
        )
        try:
            response = await request
        except aiohttp.ServerDisconnectedError as exc:
            if isinstance(exc.message, str):  # else it holds the part of an answer that came
                raise _NothingReadError("it was closed") from exc
            raise
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ClientConnectionResetError) as exc:
            # A reset while the headers are due; aiohttp does not say whether a part of them was there.
            raise _NothingReadError(exc.strerror or str(exc)) from exc
        headed_s = time.monotonic()
        if ask.is_streamed and response.status == 200:
            timings = Timings(way.connected_s - way.began_s, headed_s - way.connected_s, 0.0)
            rest = _Rest(url, response, ask, deadline_s)
            return Answer.of(response.status, memoryview(b""), response.headers.get, timings, rest)
        async with response:
            body = await _read_body(response, ask.limits.max_message_bytes)
            timings = Timings(
                way.connected_s - way.began_s,
                headed_s - way.connected_s,
                time.monotonic() - headed_s,
            )
            return Answer.of(response.status, body, response.headers.get, timings)

    def _session(self, *, is_fresh: bool) -> aiohttp.ClientSession:
        """Return the session whose connections are kept, or the one whose connections are always new."""
        session = self._sessions.get(is_fresh)
        if session is None:
            session = self._sessions[is_fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections, force_close=is_fresh),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=asks.CONNECT_LIMIT_S),
                headers={"Accept-Encoding": "identity"},
                trace_configs=[_trace()],
            )
        return session


class _Rest(AsyncRest):
    """The rest of one answer; its connection goes back to the session when all is read."""

    def __init__(
        self, url: str, response: aiohttp.ClientResponse, ask: Ask[Any], deadline_s: float
    ) -> None:
        self._url = url
        self._response = response
        self._ask = ask
        self._deadline_s = deadline_s

    @override
    async def read(self) -> bytes:
        loop = asyncio.get_running_loop()
        until_s = min(self._deadline_s, loop.time() + asks.MOST_SILENCE_S)
        try:
            async with asyncio.timeout_at(until_s):
                return await self._response.content.readany()
        except TimeoutError as exc:
            if loop.time() < self._deadline_s:
                raise asks.silent(self._url, asks.MOST_SILENCE_S) from exc
            raise asks.too_late(self._url, self._ask) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise asks.cut_off(self._url, _first_line(exc)) from exc

    @override
    def close(self) -> None:
        self._response.close()  # does nothing where all was read


class _NothingReadError(Exception):
    """The connection ended before the first byte of an answer."""


class _Way:
    """One request's way to a router: when it began, and which connection it got."""

    __slots__ = ("began_s", "connected_s", "is_reused")

    def __init__(self) -> None:
        self.is_reused = False
        """True if its connection was used before."""
        self.began_s = self.connected_s = time.monotonic()


def _trace() -> aiohttp.TraceConfig:
    """Return what marks on a request's way when it got its connection, and whether that was used before."""

    async def reused(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionReuseconnParams,
    ) -> None:
        context.trace_request_ctx.is_reused = True
        context.trace_request_ctx.connected_s = time.monotonic()

    async def made(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceConnectionCreateEndParams,
    ) -> None:
        context.trace_request_ctx.connected_s = time.monotonic()

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    trace.on_connection_create_end.append(made)
    return trace


class _Body(aiohttp.Payload):
    """The buffers of a large request, written one after the other.

    An answer that comes before the last byte left ends the connection at once: a router that refuses a
    body may never read the rest, and closing in order would wait for it and keep the body.
    """

    def __init__(self, buffers: Sequence[bytes | memoryview], size_bytes: int) -> None:
        super().__init__(buffers)
        self._buffers = buffers
        self._size = size_bytes

    @override
    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._buffers).decode(encoding, errors)

    @override
    async def write(self, writer: AbstractStreamWriter) -> None:
        try:
            for buffer in self._buffers:
                await writer.write(buffer)
        except asyncio.CancelledError:
            if writer.transport is not None:
                writer.transport.abort()
            raise


async def _read_body(response: aiohttp.ClientResponse, limit_bytes: int) -> memoryview:
    try:
        # what a proxy packs in spite of what was asked is unpacked on its way, so that it has another length
        is_packed = "Content-Encoding" in response.headers
        length = None if is_packed else response.content_length
        body = ArrivingBody(length, response.headers.get(HEADER_LENGTH_NAME), limit_bytes)
        async for chunk in response.content.iter_any():
            body.add(chunk)
    except TooLarge:
        response.close()
        raise
    return body.view()


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]
