"""A message that its client has packed, while it is unpacked. IO: asyncio, threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, LocalError
from capamesh.router.grpc.exchange import OnReply, error_reply
from capamesh.router.grpc.lookups import Running
from capamesh.router.grpc.status import Status, status_trailers
from capamesh.router.http.unpacking import WaitingCharge, no_room, unpacked

if TYPE_CHECKING:
    from capamesh.router.grpc.http2 import Headers
    from capamesh.router.http.body_budget import BodyBudget
    from capamesh.router.http.front_context import FrontContext


CODINGS: Final = ("gzip", "deflate")
_TAKEN_ENCODINGS: Final = (b"grpc-accept-encoding", b"identity,gzip,deflate")


def coding_refused(coding: str) -> Headers:
    """Return the trailers for a message that is packed in a way that is not known here, or not said."""
    if coding == "identity":
        text = "a message is packed, and grpc-encoding does not say how"
        return status_trailers(Status.INTERNAL, text)
    text = f"grpc-encoding is {coding[:80]!r}; messages may be packed by {' or '.join(CODINGS)}"
    return [*status_trailers(Status.UNIMPLEMENTED, text), _TAKEN_ENCODINGS]


class Unpacking(Running):
    """One message, for which there is no request before it is unpacked."""

    __slots__ = ("_coding", "_front", "_most_bytes", "_on_done", "_on_reply", "_task")

    def __init__(
        self,
        front: FrontContext,
        coding: str,
        on_done: Callable[[memoryview], None],
        on_reply: OnReply,
    ) -> None:
        """`on_done` gets the message, whose bytes are held in the budget from then on; one of the two is told, once."""
        self._front = front
        self._coding = coding
        self._on_done = on_done
        self._on_reply = on_reply
        self._task: asyncio.Task[None] | None = None

    @override
    def begin(self, message: memoryview) -> None:
        self._task = asyncio.create_task(self._unpack(message))

    @override
    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _fail(self, error: CapameshError) -> None:
        self._on_reply(error_reply(error))

    async def _unpack(self, message: memoryview) -> None:
        front = self._front
        charge: _Message | None = None
        try:
            charge = _Message(front.budget, len(message))
            async with asyncio.timeout(front.arrival_s):
                whole = await unpacked(
                    message, self._coding, front.inference.limits.max_message_bytes, charge
                )
        except TimeoutError:  # it has waited for room all the time
            self._fail(no_room())
        except CapameshError as error:
            self._fail(error.with_traceback(None))
        except Exception:
            front.inference.log.exception("request_crashed", request="unpacking")
            self._fail(LocalError("the router failed on this request; see its log"))
        else:
            if front.budget.arrived(charge, len(whole)):
                self._on_done(memoryview(whole))
            else:
                self._fail(no_room())
        finally:
            if charge is not None:
                front.budget.release(charge)


class _Message(WaitingCharge):
    """The charge for what a message is unpacked to."""

    __slots__ = ("_size_bytes",)

    def __init__(self, budget: BodyBudget, size_bytes: int) -> None:
        super().__init__(budget, 0)
        self.is_busy = True  # nobody has to send more for it
        self._size_bytes = size_bytes

    @override
    def moved_bytes(self) -> int:
        return self._size_bytes
