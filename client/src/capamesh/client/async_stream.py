"""A stream of the asynchronous client. IO: asyncio.

A task reads all along, so that a router's pings are answered while the caller has nothing to send.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import override

from capamesh.client import asks
from capamesh.client.access import Access
from capamesh.client.address import RouterAddress
from capamesh.client.answers import Answer, Outputs
from capamesh.client.failover import Failover, is_for_another, none_answered
from capamesh.client.stream_wire import DONE, StreamWire
from capamesh.client.streams import StreamPlan, host_of
from capamesh.protocol.errors import CapameshError

T = TypeVar("T")

_READ_BYTES = 64 * 1024


class AsyncStream:
    """One stream; `async with` opens it at the first router that takes it, and closes it."""

    def __init__(self, failover: Failover, access: Access, plan: StreamPlan[Any]) -> None:
        self._failover = failover
        self._access = access
        self._plan = plan
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._wire: StreamWire
        self._news = asyncio.Event()
        self._error: CapameshError | None = None
        self._task: asyncio.Task[None]

    @override
    def __repr__(self) -> str:
        return f"AsyncStream({self._plan.path!r})"

    async def __aenter__(self) -> AsyncStream:
        now_s = asyncio.get_running_loop().time
        errors: list[CapameshError] = []
        for router in self._failover.order(now_s()):
            try:
                await self._open(router)
            except CapameshError as error:
                errors.append(error)
                if not is_for_another(error, is_repeatable=True):
                    break
                self._failover.failed(router, now_s())
            else:
                self._failover.answered(router)
                self._task = asyncio.create_task(self._read())
                return self
        raise none_answered(errors)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if not self._writer.is_closing():
            self._writer.write(self._wire.close())
        await self._hang_up()

    @property
    def wire(self) -> StreamWire:
        """The wire of the stream."""
        return self._wire

    async def send(self, data: bytes) -> None:
        """Send bytes that the wire has made."""
        try:
            async with asyncio.timeout(self._plan.wait_s):
                self._writer.write(data)
                await self._writer.drain()
        except TimeoutError as exc:
            raise self._plan.too_late(self._wire.url) from exc
        except OSError as exc:
            raise asks.cut_off(self._wire.url, exc.strerror or repr(exc)) from exc

    async def next(self) -> Answer | None:
        """Return the next answer; None: the router has closed behind the last."""
        wire = self._wire
        try:
            async with asyncio.timeout(self._plan.wait_s):
                while (answer := wire.next()) is None and wire.close_code is None:
                    if self._error is not None:
                        raise self._error
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as exc:
            raise self._plan.too_late(wire.url) from exc
        return answer

    async def _open(self, router: RouterAddress) -> None:
        plan = self._plan
        self._wire = wire = StreamWire(router.url, plan.most_bytes)
        await self._connect(router)
        try:
            headers = self._access.with_own(plan.headers)
            await self.send(
                wire.opening(host_of(router), router.prefix + plan.path, plan.query, headers)
            )
            async with asyncio.timeout(plan.wait_s):
                while not wire.is_open:
                    await self._receive()
        except TimeoutError as exc:
            await self._hang_up()
            raise plan.too_late(router.url) from exc
        except BaseException:
            await self._hang_up()
            raise

    async def _connect(self, router: RouterAddress) -> None:
        try:
            async with asyncio.timeout(asks.CONNECT_LIMIT_S):
                self._reader, self._writer = await asyncio.open_connection(
                    router.host,
                    router.port,
                    ssl=self._access.tls if router.scheme == "https" else None,
                )
        except TimeoutError as exc:
            why = f"no connection within {asks.CONNECT_LIMIT_S:g} s"
            raise asks.unreachable(router.url, why) from exc
        except OSError as exc:
            raise asks.unreachable(router.url, asks.why_not(exc)) from exc

    async def _receive(self) -> None:
        wire = self._wire
        try:
            data = await self._reader.read(_READ_BYTES)
        except OSError as exc:
            raise asks.cut_off(wire.url, exc.strerror or repr(exc)) from exc
        wire.receive(data)
        to_send, wire.to_send = wire.to_send, b""
        if to_send:
            self._writer.write(to_send)

    async def _read(self) -> None:
        try:
            while self._wire.close_code is None:
                await self._receive()
                self._news.set()
        except CapameshError as error:
            self._error = error
        self._news.set()

    async def _hang_up(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def streamed(
    failover: Failover,
    access: Access,
    plan: StreamPlan[T],
    items: Iterable[T] | AsyncIterable[T],
) -> AsyncIterator[Outputs]:
    """Yield what is answered to `items`, and look for the next only when all answers are read that are due."""
    async with AsyncStream(failover, access, plan) as stream:
        url = stream.wire.url
        async for item in each_of(items):
            for turn in plan.turns(stream.wire, item):
                await stream.send(turn.data)
                for _ in range(turn.due):
                    answer = await stream.next()
                    if answer is None:
                        raise stream.wire.closed(plan.answered)
                    outputs = plan.outputs(answer, turn.read, url)
                    if outputs is not None:
                        yield outputs
        await stream.send(stream.wire.end())
        while (answer := await stream.next()) is not None:
            outputs = plan.last(answer, url)
            if outputs is not None:
                yield outputs
        if stream.wire.close_code != DONE:
            raise stream.wire.closed(plan.answered)


async def each_of(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Yield the items of an iterable of either kind."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    for item in items:
        yield item
