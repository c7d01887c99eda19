"""Servers in threads of their own, and both clients behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oip_servers import OipServer, Script, ScriptedServer, running_server

from capamesh.client import AsyncClient, Client


@pytest.fixture
def server() -> Iterator[OipServer]:
    with running_server() as served:
        yield served


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(*scripts: Script) -> ScriptedServer:
        servers.append(ScriptedServer(*scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Awaited:
    """An `AsyncClient` whose methods wait, so that one test is for both clients."""

    def __init__(self, url: str, **options: object) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._client, name)

        def call(*args: object, **kwargs: object) -> object:
            async def wait() -> object:
                return await method(*args, **kwargs)

            return self._runner.run(wait())

        return call

    def end(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Return what makes a client of either kind for a URL."""
    clients: list[Client | Awaited] = []

    def make(url: str, **options: object) -> Client | Awaited:
        kind = Client if request.param == "sync" else Awaited
        clients.append(kind(url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close() if isinstance(client, Client) else client.end()
