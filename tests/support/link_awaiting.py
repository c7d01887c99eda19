"""Asking over a link and waiting for the answer, where a test has nothing else to do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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
    awaited = Awaited()
    stream = link.ask(meta, body, awaited)
    try:
        answer: Answer = await awaited.future
    except asyncio.CancelledError:
        link.withdraw(stream)
        raise
    return answer


async def probe(link: Link, meta: bytes = b"") -> bytes:
    """Ask for the peer's load, of what `meta` says, and wait for it. Cancelling tells the peer."""
    awaited = Awaited()
    stream = link.ask_load(meta, awaited)
    try:
        load: bytes = await awaited.future
    except asyncio.CancelledError:
        link.withdraw_load(stream)
        raise
    return load
