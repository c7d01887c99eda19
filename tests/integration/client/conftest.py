"""Servers in threads of their own, and both clients behind one face."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from itertools import islice
from typing import Any

import pytest
from oip_servers import OipServer, Script, ScriptedServer
from threaded_server import served

from capamesh.client import AsyncClient, Client
from capamesh.client.jobs.async_jobs import AsyncFiles, AsyncJob, AsyncJobs


@pytest.fixture
def server() -> Iterator[OipServer]:
    made = OipServer()
    with served(made.application()) as made.url:
        yield made


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(*scripts: Script) -> ScriptedServer:
        servers.append(ScriptedServer(*scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Blocking:
    """Waits for what an object's methods return, and for what their iterators yield."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self._inner = inner
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.ismethod(found):
            return self._wrapped(found)

        def call(*args: object, **kwargs: object) -> Any:
            result = found(*args, **kwargs)
            if inspect.isasyncgen(result):
                return self._each(result)
            return self._wrapped(self._wait(result) if inspect.isawaitable(result) else result)

        return call

    def _each(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._wrapped(self._wait(anext(items)))
            except StopAsyncIteration:
                return

    def _wait(self, awaited: Any) -> Any:
        async def wait() -> Any:
            return await awaited

        return self._runner.run(wait())

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, AsyncJobs | AsyncJob | AsyncFiles):
            return Blocking(value, self._runner)
        return value


class BlockingClient(Blocking):
    """An asynchronous client in a loop of its own."""

    def __init__(self, url: Any, **options: Any) -> None:
        super().__init__(AsyncClient(url, **options), asyncio.Runner())

    def end(self) -> None:
        self._wait(self._inner.close())
        self._runner.close()


@pytest.fixture(params=[Client, BlockingClient], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Return what makes a client of either kind for a URL."""
    clients: list[Any] = []

    def make(url: Any, **options: Any) -> Any:
        clients.append(request.param(url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close() if isinstance(client, Client) else client.end()


class Asker:
    """Either client, beside a router in the same loop: calls are awaited, and streams are read."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._is_sync = isinstance(client, Client)
        self.stream: Any = None
        """The stream that was read last."""

    async def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        method = getattr(self._client, name)
        if self._is_sync:
            return await asyncio.to_thread(method, *arguments, **options)
        return await method(*arguments, **options)

    async def read(
        self, name: str, *arguments: Any, most: int = 100_000, **options: Any
    ) -> list[Any]:
        """Return at most so many pieces of a stream, which is closed then."""

        def begin() -> Any:
            self.stream = getattr(self._client, name)(*arguments, **options)
            return self.stream

        def read(found: list[Any]) -> None:
            with closing(begin()) as stream:
                found.extend(islice(stream, most))

        found: list[Any] = []
        if self._is_sync:
            await asyncio.to_thread(read, found)
            return found
        stream = begin()
        try:
            async for piece in stream:
                found.append(piece)
                if len(found) == most:
                    break
        finally:
            await (stream.aclose() if inspect.isasyncgen(stream) else stream.close())
        return found


Asking = Callable[..., AbstractAsyncContextManager[Asker]]


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
def asking(request: pytest.FixtureRequest) -> Asking:
    """Return what makes either client for a URL, or for a router's HTTP."""

    @asynccontextmanager
    async def made(at: Any, **options: Any) -> AsyncIterator[Asker]:
        url = at if isinstance(at, str | list) else f"http://{at.client.host}:{at.client.port}"
        client = request.param(url, **options)
        try:
            yield Asker(client)
        finally:
            closed = client.close()
            if inspect.isawaitable(closed):
                await closed

    return made
