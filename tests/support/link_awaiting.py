"""Asking over a link and waiting for the answer, where a test has nothing else to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.events import Answer
from capamesh.protocol.links.handlers import LoadHandler, ResponseHandler
from capamesh.protocol.links.link import Link
from capamesh.protocol.links.outgoing import Buffer


class Awaited(ResponseHandler, LoadHandler):
    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @override
    def answered(self, answer: Answer) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    @override
    def reported(self, meta: bytes) -> None:
        if not self.future.done():
            self.future.set_result(meta)

    @override
    def failed(self, error: CapameshError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


async def request(link: Link, meta: bytes, body: Sequence[Buffer] = ()) -> Answer:
    """Send a request and wait for its answer; raise what the peer answered, or `LinkLost`. Cancelling tells the peer."""
    answer: Answer = await _asked(lambda asker: link.ask(meta, body, asker), link.withdraw)
    return answer


async def probe(link: Link, meta: bytes = b"") -> bytes:
    """Ask likewise for the peer's load, of what `meta` says."""
    load: bytes = await _asked(lambda asker: link.ask_load(meta, asker), link.withdraw_load)
    return load


async def _asked(ask: Callable[[Awaited], int], withdraw: Callable[[int], object]) -> Any:
    awaited = Awaited()
    stream = ask(awaited)
    try:
        return await awaited.future
    except asyncio.CancelledError:
        withdraw(stream)
        raise
