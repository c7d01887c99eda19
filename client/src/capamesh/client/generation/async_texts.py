"""Chats and continuations of the asynchronous client, whole and as they come. IO: that of the client's connections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, Unpack

from typing_extensions import override

from capamesh.client.generation.answers import Arrived
from capamesh.client.generation.asks import Messages, Prompt
from capamesh.client.generation.questions import Questions
from capamesh.client.rest import AsyncRest

if TYPE_CHECKING:
    from capamesh.client.answers import Answer
    from capamesh.client.asks import Ask
    from capamesh.client.generation.answers import Assembly
    from capamesh.client.generation.parameters import ChatParameters, CompletionParameters
    from capamesh.client.generation.values import Generation, TextPiece
    from capamesh.client.routing_options import RoutingOptions

T = TypeVar("T")


class AsyncTextStream(AsyncIterator["TextPiece"]):
    """An answer that is read as it comes, piece by piece; `async with` or `close` ends it early, and the node stops.

    Nothing is asked before the first piece is.
    """

    def __init__(self, begin: Callable[[], Awaitable[tuple[Answer, Assembly]]]) -> None:
        """`begin` asks for it; clients make it."""
        self._arrived = Arrived()
        self._pieces = _pieces(begin, self._arrived)

    @override
    async def __anext__(self) -> TextPiece:
        return await anext(self._pieces)

    async def __aenter__(self) -> AsyncTextStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def answer(self) -> Generation:
        """The answer as far as it has come; once there are no more pieces, the whole of it with the tokens that it took."""
        return self._arrived.generation()

    async def close(self) -> None:
        """End it, wherever it is. May be called again."""
        await self._pieces.aclose()


async def _pieces(
    begin: Callable[[], Awaitable[tuple[Answer, Assembly]]], arrived: Arrived
) -> AsyncGenerator[TextPiece]:
    """Yield the pieces as they come; who gives this up hangs up."""
    answer, assembly = await begin()
    arrived.begin(answer, assembly)
    rest, headed_s = answer.rest, monotonic()
    assert isinstance(rest, AsyncRest)  # noqa: S101 - the asynchronous transport's own
    try:
        while data := await rest.read():
            arrived.lasts(monotonic() - headed_s)
            for piece in assembly.pieces(data):
                yield piece
        for piece in assembly.pieces(b""):
            yield piece
    finally:
        rest.close()


class AsyncTexts(Questions):
    """The methods of an asynchronous client by which a model generates texts."""

    async def chat(
        self,
        model: str,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
        **parameters: Unpack[ChatParameters],
    ) -> Generation:
        """Return the next message of a chat; arguments and errors are those of `Client.chat`."""
        question = self._chat(model, messages, timeout_s, routing, parameters)
        return await self._exchange(question.whole())

    def chat_stream(
        self,
        model: str,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
        **parameters: Unpack[ChatParameters],
    ) -> AsyncTextStream:
        """Return the next message of a chat as it comes; arguments and errors are those of `Client.chat_stream`."""
        question = self._chat(model, messages, timeout_s, routing, parameters)
        return AsyncTextStream(lambda: self._exchange(question.streamed()))

    async def complete(
        self,
        model: str,
        prompt: Prompt,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
        **parameters: Unpack[CompletionParameters],
    ) -> Generation:
        """Return the continuation of a text, or of several; arguments and errors are those of `Client.complete`."""
        question = self._complete(model, prompt, timeout_s, routing, parameters)
        return await self._exchange(question.whole())

    def complete_stream(
        self,
        model: str,
        prompt: Prompt,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
        **parameters: Unpack[CompletionParameters],
    ) -> AsyncTextStream:
        """Return the continuation of a text as it comes; arguments and errors are those of `Client.complete_stream`."""
        question = self._complete(model, prompt, timeout_s, routing, parameters)
        return AsyncTextStream(lambda: self._exchange(question.streamed()))

    @abstractmethod
    async def _exchange(self, ask: Ask[T]) -> T:
        """Return what is answered to a request."""
