"""Chats and continuations of the synchronous client, whole and as they come. IO: that of the client's connections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, Unpack

from typing_extensions import override

from capamesh.client.generation.answers import Arrived
from capamesh.client.generation.asks import Messages, Prompt
from capamesh.client.generation.questions import Questions
from capamesh.client.rest import SyncRest

if TYPE_CHECKING:
    from capamesh.client.answers import Answer
    from capamesh.client.asks import Ask
    from capamesh.client.generation.answers import Assembly
    from capamesh.client.generation.parameters import ChatParameters, CompletionParameters
    from capamesh.client.generation.values import Generation, TextPiece
    from capamesh.client.routing_options import RoutingOptions

T = TypeVar("T")


class TextStream(Iterator["TextPiece"]):
    """An answer that is read as it comes, piece by piece; `with` or `close` ends it early, and the node stops.

    Nothing is asked before the first piece is.
    """

    def __init__(self, begin: Callable[[], tuple[Answer, Assembly]]) -> None:
        """`begin` asks for it; clients make it."""
        self._arrived = Arrived()
        self._pieces = _pieces(begin, self._arrived)

    @override
    def __next__(self) -> TextPiece:
        return next(self._pieces)

    def __enter__(self) -> TextStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def answer(self) -> Generation:
        """The answer as far as it has come; once there are no more pieces, the whole of it with the tokens that it took."""
        return self._arrived.generation()

    def close(self) -> None:
        """End it, wherever it is. May be called again."""
        self._pieces.close()


def _pieces(begin: Callable[[], tuple[Answer, Assembly]], arrived: Arrived) -> Generator[TextPiece]:
    """Yield the pieces as they come; who gives this up hangs up."""
    answer, assembly = begin()
    arrived.begin(answer, assembly)
    rest, headed_s = answer.rest, monotonic()
    assert isinstance(rest, SyncRest)  # noqa: S101 - the synchronous transport's own
    try:
        while data := rest.read():
            arrived.lasts(monotonic() - headed_s)
            yield from assembly.pieces(data)
        yield from assembly.pieces(b"")
    finally:
        rest.close()


class SyncTexts(Questions):
    """The methods of a client by which a model generates texts."""

    def chat(
        self,
        model: str,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
        **parameters: Unpack[ChatParameters],
    ) -> Generation:
        """Return the next message of a chat, as `POST /v1/chat/completions` gives it.

        Who gives up waiting ends the generation at its node.

        Args:
            model: the name of a model for chat.
            messages: the chat so far, as OpenAI has it: `[{"role": "user", "content": "Hello"}]`; a text is one message of a user.
                `Generation.choices[0].as_message()` is the answer as one of them.
            timeout_s: how long to wait; None: what the client was made with, or else for as long as routers allow. The router is not
                told.
            routing: who may run the request, and how one of them is chosen.
            parameters: `max_tokens`, `temperature`, `top_p`, `top_k`, `min_p`, `presence_penalty`, `frequency_penalty`,
                `repetition_penalty`, `seed`, `stop`, `n`, `logit_bias`, `logprobs`, `top_logprobs`, `response_format`, `tools`,
                `tool_choice`, `parallel_tool_calls`, `chat_template_kwargs`, `ignore_eos`, `prompt_cache_key`, as OpenAI and other
                servers of open models have them; what is left out is as the model has it.

        Raises:
            InvalidRequest: the model is not for chat, or does not take these messages or parameters.
            ModelNotFound: nobody hosts the model.
            DeadlineExceeded: `timeout_s` has passed.
            Overloaded, NoEndpoint, ModelUnavailable: nobody can run it now; their `retry_after_s` says when to ask again.
            TooLarge: the messages have more tokens than the model has room for, or are over the router's limits.
            LinkLost: the router cannot be reached, or the connection to it broke.
        """
        return self._exchange(self._chat(model, messages, timeout_s, routing, parameters).whole())

    def chat_stream(
        self,
        model: str,
        messages: Messages,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
        **parameters: Unpack[ChatParameters],
    ) -> TextStream:
        """Return the next message of a chat as it comes; arguments and errors are those of `chat`.

        An error is raised by the piece that does not come; what came before is in `TextStream.answer`. Where a node is lost, another
        one goes on.
        """
        question = self._chat(model, messages, timeout_s, routing, parameters)
        return TextStream(lambda: self._exchange(question.streamed()))

    def complete(
        self,
        model: str,
        prompt: Prompt,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
        **parameters: Unpack[CompletionParameters],
    ) -> Generation:
        """Return the continuation of a text, or of several, as `POST /v1/completions` gives it: no chat's template is used.

        Args:
            model: the name of a model for chat.
            prompt: a text, the numbers of its tokens, or up to 16 of either; each has its choices, in the order of the prompts.
            timeout_s: as of `chat`.
            routing: as of `chat`.
            parameters: those of `chat` but for tools, `response_format` and templates; `logprobs` is a number, `echo` has each choice
                begin with its prompt. Without `max_tokens` a choice has 16.

        Raises:
            CapameshError: as `chat` does.
        """
        return self._exchange(self._complete(model, prompt, timeout_s, routing, parameters).whole())

    def complete_stream(
        self,
        model: str,
        prompt: Prompt,
        *,
        timeout_s: float | None = None,
        routing: RoutingOptions | None = None,
        **parameters: Unpack[CompletionParameters],
    ) -> TextStream:
        """Return the continuation of a text as it comes; arguments and errors are those of `complete`, the rest is as of `chat_stream`."""
        question = self._complete(model, prompt, timeout_s, routing, parameters)
        return TextStream(lambda: self._exchange(question.streamed()))

    @abstractmethod
    def _exchange(self, ask: Ask[T]) -> T:
        """Return what is answered to a request."""
