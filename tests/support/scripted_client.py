"""A connection of a scripted client to a router, after which nothing may be held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raw_http import GUARD_S
from router_http import Http


class ScriptedClient:
    """Sends the bytes that a test says, and has `take` read what comes."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        take: Callable[[bytes], None],
    ) -> None:
        self._reader, self._writer, self._take = reader, writer, take
        self.is_ended = False

    def raw(self, *data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.writelines(data)

    async def read(self) -> None:
        """Read what is there, and wait for something."""
        async with asyncio.timeout(GUARD_S):
            try:
                data = await self._reader.read(1 << 16)
            except ConnectionResetError:
                data = b""
        self.is_ended = not data
        if data:
            self._take(data)

    async def read_until(self, condition: Callable[[], object]) -> None:
        while not condition():
            assert not self.is_ended, vars(self)
            await self.read()

    async def read_all(self) -> None:
        while not self.is_ended:
            await self.read()

    def leave(self) -> None:
        self._writer.transport.abort()


async def all_given_back(http: Http, others: int = 0) -> None:
    """Wait until nobody but so many others is connected, and see that nothing is held."""
    async with asyncio.timeout(GUARD_S):
        while len(http.front.connections) > others or http.fleet.counts:
            await asyncio.sleep(0)
    assert (http.front.requests.count, http.front.budget.used_bytes) == (0, 0)
    assert http.front.budget.arriving_bytes == 0
