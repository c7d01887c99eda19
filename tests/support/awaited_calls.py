"""The outcome of a call as something to await. IO: the running loop's futures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.router.requests.call import Handle, Outcome, Responder

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError


class _Awaited(Responder):
    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    @override
    def complete(self, outcome: Outcome) -> None:
        if not self.future.done():
            self.future.set_result(outcome)

    @override
    def fail(self, error: CapameshError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


async def outcome_of(start: Callable[[Responder], Handle]) -> Outcome:
    """Start a call and return its outcome; raise what `start` raises, or the error that the call fails with.

    Cancelling the wait withdraws the call.
    """
    awaited = _Awaited()
    handle = start(awaited)
    try:
        return await awaited.future
    finally:
        handle.cancel()
        del handle, awaited  # an error's traceback keeps this frame, and both keep the error
