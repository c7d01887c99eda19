"""What is asked of a core or over a link as something to await. IO: the running loop's futures."""

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
from capamesh.router.requests.call import Handle, Outcome, Responder


class Awaited(Responder, ResponseHandler, LoadHandler):
    """Keeps an outcome, an answer or a load in a future."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @override
    def complete(self, outcome: object) -> None:
        if not self.future.done():
            self.future.set_result(outcome)

    answered = reported = complete

    @override
    def fail(self, error: CapameshError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    failed = fail


async def outcome_of(start: Callable[[Responder], Handle]) -> Outcome:
    """Start a call and return its outcome; raise what `start` raises, or the error that the call fails with.

    Cancelling the wait withdraws the call.
    """
    awaited = Awaited()
    handle = start(awaited)
    try:
        outcome: Outcome = await awaited.future
        return outcome
    finally:
        handle.cancel()
        del handle, awaited  # an error's traceback keeps this frame, and both keep the error


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
