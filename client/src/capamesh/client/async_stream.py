"""A stream of the asynchronous client. IO: asyncio.

A task reads all along, so that a router's pings are answered while the caller has nothing to send.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import Access
from capamesh.client.address import RouterAddress
from capamesh.client.answers import Outputs
from capamesh.client.failover import Failover
from capamesh.client.retries import Retries
from capamesh.client.stream_course import (
    NOTHING,
    Await,
    Connect,
    Give,
    HangUp,
    Look,
    Pause,
    Send,
    course,
)
from capamesh.client.stream_wire import StreamWire
from capamesh.client.streams import StreamPlan
from capamesh.protocol.errors import CapameshError

T = TypeVar("T")

_READ_BYTES = 64 * 1024


class AsyncStream:
    """The connection of one stream."""

    def __init__(self, access: Access, plan: StreamPlan[Any]) -> None:
        self._access = access
        self._plan = plan
        self._writer: asyncio.StreamWriter | None = None
        self._wire: StreamWire
        self._news = asyncio.Event()
        self._error: CapameshError | None = None
        self._task: asyncio.Task[None]

    @override
    def __repr__(self) -> str:
        return f"AsyncStream({self._plan.path!r})"

    async def connect(self, router: RouterAddress, wire: StreamWire) -> None:
        """Connect to a router, whose bytes are `wire`'s from now on."""
        self._wire, self._error = wire, None
        try:
            async with asyncio.timeout(asks.CONNECT_LIMIT_S):
                reader, writer = await asyncio.open_connection(
                    router.host,
                    router.port,
                    ssl=self._access.tls if router.scheme == "https" else None,
                )
        except TimeoutError as exc:
            why = f"no connection within {asks.CONNECT_LIMIT_S:g} s"
            raise asks.unreachable(router.url, why) from exc
        except OSError as exc:
            raise asks.unreachable(router.url, asks.why_not(exc)) from exc
        self._writer = writer
        self._task = asyncio.create_task(self._read(wire, reader, writer))

    async def send(self, data: bytes) -> None:
        """Send bytes that the wire has made."""
        writer = self._writer
        assert writer is not None  # noqa: S101 - a course connects before all else
        try:
            async with asyncio.timeout(self._plan.wait_s):
                writer.write(data)
                await writer.drain()
        except TimeoutError as exc:
            raise self._plan.too_late(self._wire.url) from exc
        except OSError as exc:
            raise asks.cut_off(self._wire.url, exc.strerror or repr(exc)) from exc

    async def until(self, is_there: Callable[[], bool]) -> None:
        """Wait until `is_there` says so."""
        try:
            async with asyncio.timeout(self._plan.wait_s):
                while not is_there():
                    if self._error is not None:
                        raise self._error
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as exc:
            raise self._plan.too_late(self._wire.url) from exc

    async def hang_up(self) -> None:
        """Close the connection, if there is one."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if not writer.is_closing():
            writer.write(self._wire.close())
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _read(
        self, wire: StreamWire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Give the wire what the router sends, and send what is to be said to that."""
        try:
            while wire.close_code is None:
                try:
                    data = await reader.read(_READ_BYTES)
                except OSError as exc:
                    raise asks.cut_off(wire.url, exc.strerror or repr(exc)) from exc
                wire.receive(data)
                to_send, wire.to_send = wire.to_send, b""
                if to_send:
                    writer.write(to_send)
                self._news.set()
        except CapameshError as error:
            self._error = error
            self._news.set()


async def streamed(
    failover: Failover,
    retries: Retries,
    access: Access,
    plan: StreamPlan[T],
    items: Iterable[T] | AsyncIterable[T],
) -> AsyncIterator[Outputs]:
    """Yield what is answered to `items`, and look for the next only when all answers are read that are due."""
    steps = course(failover, retries, access, plan, asyncio.get_running_loop().time)
    stream, left = AsyncStream(access, plan), each_of(items)
    try:
        step = next(steps, None)
        while step is not None:
            came: object = None
            try:
                match step:
                    case Give(outputs=outputs):
                        yield outputs
                    case Look():
                        came = await anext(left, NOTHING)
                    case Send(data=data):
                        await stream.send(data)
                    case Await(is_there=is_there):
                        await stream.until(is_there)
                    case Connect(router=router, wire=wire):
                        await stream.connect(router, wire)
                    case Pause(seconds=seconds):
                        await asyncio.sleep(seconds)
                    case HangUp():
                        await stream.hang_up()
            except CapameshError as error:
                step = steps.throw(error)
            else:
                step = steps.send(came)
    except StopIteration:
        pass
    finally:
        await stream.hang_up()


async def each_of(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Yield the items of an iterable of either kind."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item
