"""The requests that are answered from what the router knows, and what all requests of calls have in common. IO: asyncio, for what takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from google.protobuf.message import DecodeError
from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LocalError,
    TooLarge,
)
from capamesh.router.access.keys import Verb, check_model
from capamesh.router.grpc.exchange import GrpcReply, OnReply, error_reply
from capamesh.router.grpc.messages import CLASSES, Message

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.router.access.keys import Key
    from capamesh.router.grpc.heads import CallHead

MAX_LOOKUP_BYTES: Final = 2**14
"""The largest message of a method that is no inference: it has a name and a version."""

Answer = Callable[[Message], Message]
"""Makes the answer to a request."""
Make = Callable[["CallHead", "Key | None", float, str, OnReply], "Running"]
"""Makes what runs one request, by the head of its call, the caller's key, the call's deadline, the client's site, and who takes the reply."""


class Running(Protocol):
    """A request under way."""

    __slots__ = ()

    def begin(self, message: memoryview) -> None:
        """Begin with a message, which stays as it is until there is a reply."""
        ...

    def cancel(self) -> None:
        """Withdraw it, for whoever asked has left. Nothing happens when it is over."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service."""

    name: str
    verbs: tuple[Verb, ...]
    """The verbs, one of which a caller's key must have where keys are asked for; none: it needs no key."""
    make: Make
    is_streamed: bool = False
    """Many messages come in one call, and are answered in their order."""
    is_tritons: bool = False
    """The answers of a stream are in messages of Triton's, which may have an error instead."""
    is_lasting: bool = False
    """One message is answered for as long as the client stays: nobody waits for the end of that."""


class Lookup(Running):
    """A request that is answered from what the router knows."""

    __slots__ = ("_answer", "_key", "_log", "_on_reply", "_request")

    def __init__(
        self,
        answer: Answer,
        request: str,
        log: FilteringBoundLogger,
        key: Key | None,
        on_reply: OnReply,
    ) -> None:
        self._answer = answer
        self._key = key
        self._request = request
        self._log = log
        self._on_reply: OnReply | None = on_reply

    @override
    def begin(self, message: memoryview) -> None:
        try:
            self._tell(self._answer(self._read(message)).SerializeToString())
        except CapameshError as error:
            self._fail(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._crash(error)

    @override
    def cancel(self) -> None:
        self._on_reply = None

    def _read(self, message: memoryview) -> Message:
        """Return the request; raise what is wrong with it, or with the caller's key for the model that it names."""
        request, key = read_message(self._request, message), self._key
        if (
            key is not None
            and not key.may(Verb.READ)
            and "name" in request.DESCRIPTOR.fields_by_name
        ):
            check_model(key, request.name)
        return request

    def _tell(self, message: bytes) -> None:
        on_reply, self._on_reply = self._on_reply, None
        if on_reply is not None:
            on_reply(GrpcReply((message,)))

    def _fail(self, error: CapameshError) -> None:
        on_reply, self._on_reply = self._on_reply, None
        if on_reply is not None:
            on_reply(error_reply(error))

    def _crash(self, error: Exception) -> None:
        self._log.error("request_crashed", request=self._request, exc_info=error)
        self._fail(LocalError("the router failed on this request; see its log"))


class Refusal(Running):
    """A request for what is not here."""

    __slots__ = ("_error", "_on_reply")

    def __init__(
        self,
        error: CapameshError,
        head: CallHead,
        key: Key | None,
        deadline_s: float,
        client: str,
        on_reply: OnReply,
    ) -> None:
        """`error` says what there is instead; the others are as for each `Make`."""
        del head, key, deadline_s, client
        self._error = error
        self._on_reply = on_reply

    @override
    def begin(self, message: memoryview) -> None:
        self._on_reply(error_reply(self._error))

    @override
    def cancel(self) -> None:
        """Do nothing: it is over as soon as it has begun."""


class ListLookup(Lookup):
    """A request for a list that may take long to make: other requests have their turns meanwhile."""

    __slots__ = ("_page_of", "_task")

    def __init__(
        self,
        page_of: Callable[[Message], Awaitable[bytes]],
        request: str,
        log: FilteringBoundLogger,
        key: Key | None,
        on_reply: OnReply,
    ) -> None:
        super().__init__(lambda message: message, request, log, key, on_reply)
        self._page_of = page_of
        self._task: asyncio.Task[None] | None = None

    @override
    def begin(self, message: memoryview) -> None:
        try:
            request = self._read(message)
        except CapameshError as error:
            self._fail(error.with_traceback(None))
            return
        self._task = asyncio.create_task(self._make(request))

    @override
    def cancel(self) -> None:
        super().cancel()
        if self._task is not None:
            self._task.cancel()

    async def _make(self, request: Message) -> None:
        try:
            page = await self._page_of(request)
        except CapameshError as error:
            self._fail(error.with_traceback(None))
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._crash(error)
        else:
            self._tell(page)


def read_message(name: str, message: memoryview) -> Message:
    """Return the message of a request. Raises `InvalidRequest` or `TooLarge`."""
    if len(message) > MAX_LOOKUP_BYTES:
        raise TooLarge(f"the {name} has {len(message)} bytes; the limit is {MAX_LOOKUP_BYTES}")
    try:
        return CLASSES[name].FromString(bytes(message))
    except DecodeError:
        raise InvalidRequest(
            f"the bytes of the request are no {name}: encode it with protobuf"
        ) from None
