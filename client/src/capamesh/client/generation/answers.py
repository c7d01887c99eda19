"""Reads whole answers and pieces of streams, as OpenAI has them, and puts pieces together. Pure.

Whatever it does not know is skipped, so that other servers of this form can be read, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from capamesh.client.answers import Answer, failure_of
from capamesh.client.asks import cut_off
from capamesh.client.generation.events import Events
from capamesh.client.generation.values import (
    Choice,
    Generation,
    TextPiece,
    TokenLogprob,
    TokenUsage,
    ToolCall,
)
from capamesh.client.timings import NOT_TIMED
from capamesh.protocol.errors import CapameshError, PeerError, ProtocolViolation, from_wire
from capamesh.protocol.schema import Mismatch, Struct, json_value, read

if TYPE_CHECKING:
    from capamesh.client.timings import Timings

DONE: Final = b"[DONE]"
"""The data of the last event of a stream."""
MOST_CHOICES: Final = 1024
"""The most choices that are taken of an answer (guess: routers make 128)."""


class _Function(Struct, frozen=True):
    """The function of a call of a tool."""

    name: str | None = None
    arguments: str | None = None


class _Call(Struct, frozen=True):
    """A call of a tool, or a piece of one."""

    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Message(Struct, frozen=True):
    """A message, or a piece of one."""

    content: str | None = None
    tool_calls: tuple[_Call, ...] | None = None


class _Token(Struct, frozen=True):
    """A token of a chat, and its log probability."""

    token: str
    logprob: float
    top_logprobs: tuple[_Token, ...] | None = None


class _Logprobs(Struct, frozen=True):
    """The log probabilities of tokens: in `content` as chats have them, else in lists."""

    content: tuple[_Token, ...] | None = None
    tokens: tuple[str, ...] | None = None
    token_logprobs: tuple[float | None, ...] | None = None
    top_logprobs: tuple[dict[str, float] | None, ...] | None = None


class _Choice(Struct, frozen=True):
    """A choice, or a piece of one: `text` of a continuation, a message, or a piece of one."""

    index: int = 0
    text: str | None = None
    message: _Message | None = None
    delta: _Message | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Cached(Struct, frozen=True):
    """The part of the prompt that did not have to run."""

    cached_tokens: int | None = None


class _Usage(Struct, frozen=True):
    """The tokens that it took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Cached | None = None


class _Body(Struct, frozen=True):
    """A whole answer, or an event of a stream."""

    id: str | None = None
    model: str | None = None
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: Any = None


class Assembly:
    """The answer to one request, as far as it has come: as one body, or in the events of a stream."""

    def __init__(self, answer: Answer, url: str, most_bytes: int) -> None:
        """`answer` has the head of it, of the router at `url`; of a stream at most `most_bytes` are taken."""
        self._answer = answer
        self._url = url
        self._events = Events(most_bytes)
        self._texts: dict[int, _Begun] = {}
        self._usage = TokenUsage()
        self._id = self._model = ""
        self._has_events = False
        self.is_done = False
        """True once the stream's own last event has come."""

    def pieces(self, data: bytes) -> Iterator[TextPiece]:
        """Yield the pieces that the next bytes of a stream complete; empty bytes: there are no more.

        Raises:
            CutOff: the stream is over before its end.
            CapameshError: what broke the answer off, as the router says, or bytes that are no such stream.
        """
        if not data and not self.is_done:
            if self._has_events:
                raise cut_off(self._url, "its stream ended before its last event")
            raise ProtocolViolation(f"{self._url} answers with no stream of events")
        for event in self._events.of(data):
            self._has_events = True
            if event == DONE:
                self.is_done = True
                return
            yield from self._taken(_body_of(event))

    def take(self, body: bytes | memoryview) -> None:
        """Take a whole answer. Raises `ProtocolViolation` where it is another."""
        for _ in self._taken(_body_of(bytes(body))):
            pass
        if not self._texts:
            raise ProtocolViolation(f"the answer of {self._url} has no choices")

    def generation(self, timings: Timings | None = None) -> Generation:
        """Return what has come, as one answer."""
        answer = self._answer
        return Generation(
            tuple([self._texts[at].choice() for at in sorted(self._texts)]),
            self._usage,
            self._model,
            self._id,
            tuple(filter(None, (answer.node or "").split(","))),
            self._url,
            self._events.resumes + _whole(answer.resumed),
            timings or answer.timings,
        )

    def _taken(self, body: _Body) -> Iterator[TextPiece]:
        if body.error is not None:
            raise _failed(body.error, self._url)
        self._id = body.id or self._id
        self._model = body.model or self._model
        if body.usage is not None:
            usage = body.usage
            cached = usage.prompt_tokens_details
            self._usage = TokenUsage(
                usage.prompt_tokens,
                usage.completion_tokens,
                (cached.cached_tokens or 0) if cached is not None else 0,
            )
        for choice in body.choices:
            if choice.index not in range(MOST_CHOICES):
                raise ProtocolViolation(
                    f"{self._url} answers choice {choice.index}, of at most {MOST_CHOICES}"
                )
            piece = _piece_of(choice)
            self._texts.setdefault(choice.index, _Begun()).add(piece)
            yield piece


class _Begun:
    """One choice, as far as it has come."""

    __slots__ = ("_calls", "_finish", "_logprobs", "_texts")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._calls: dict[int, list[ToolCall]] = {}
        self._finish = ""

    def add(self, piece: TextPiece) -> None:
        """Take the next piece."""
        if piece.text:
            self._texts.append(piece.text)
        self._logprobs += piece.logprobs
        for call in piece.tool_calls:
            self._calls.setdefault(call.index, []).append(call)
        self._finish = piece.finish or self._finish

    def choice(self) -> Choice:
        """Return what has come."""
        calls = [
            ToolCall(
                at,
                "".join([piece.id for piece in pieces]),
                "".join([piece.name for piece in pieces]),
                "".join([piece.arguments for piece in pieces]),
            )
            for at, pieces in sorted(self._calls.items())
        ]
        return Choice("".join(self._texts), self._finish, tuple(calls), tuple(self._logprobs))


class Arrived:
    """Keeps what has arrived of a stream, for whoever looks at it meanwhile."""

    __slots__ = ("_assembly", "_timings")

    def __init__(self) -> None:
        self._assembly: Assembly | None = None
        self._timings = NOT_TIMED

    def begin(self, answer: Answer, assembly: Assembly) -> None:
        """Take the head of the answer, and what puts its pieces together."""
        self._assembly = assembly
        self._timings = answer.timings

    def lasts(self, receive_s: float) -> None:
        """Note that its pieces have come for so many seconds."""
        self._timings = self._timings._replace(receive_s=receive_s)

    def generation(self) -> Generation:
        """Return what has come, which is nothing before the first piece."""
        if self._assembly is None:
            return Generation((), TokenUsage(), "")
        return self._assembly.generation(self._timings)


def read_generation(answer: Answer, url: str) -> Generation:
    """Return a whole answer; raise the error that it is."""
    if answer.status != 200:
        raise failure_of(answer, url)
    assembly = Assembly(answer, url, len(answer.body))
    assembly.take(answer.body)
    return assembly.generation()


def _body_of(text: bytes) -> _Body:
    try:
        return read(json_value(text), _Body)
    except Mismatch as exc:
        raise ProtocolViolation(
            f"the answer is none to a request for generation: {str(exc)[:200]}; is this a router's URL?"
        ) from exc


def _piece_of(choice: _Choice) -> TextPiece:
    message = choice.message or choice.delta or _Message()
    calls = [
        ToolCall(
            at if call.index is None else call.index,
            call.id or "",
            call.function.name or "",
            call.function.arguments or "",
        )
        for at, call in enumerate(message.tool_calls or ())
    ]
    return TextPiece(
        (choice.text or "") + (message.content or ""),
        choice.index,
        choice.finish_reason or "",
        tuple(calls),
        _logprobs_of(choice.logprobs),
    )


def _logprobs_of(told: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    if told is None:
        return ()
    if told.content is not None:
        return tuple(
            [
                TokenLogprob(
                    one.token,
                    one.logprob,
                    tuple([(top.token, top.logprob) for top in one.top_logprobs or ()]),
                )
                for one in told.content
            ]
        )
    tokens = told.tokens or ()
    values = told.token_logprobs or ()
    tops = told.top_logprobs or (None,) * len(tokens)
    return tuple(
        [
            TokenLogprob(token, 0.0 if value is None else value, tuple((top or {}).items()))
            for token, value, top in zip(tokens, values, tops, strict=False)
        ]
    )


def _failed(error: object, url: str) -> CapameshError:
    """Return the error that broke off a stream."""
    said = cast("dict[str, Any]", error if isinstance(error, dict) else {"message": error})
    message, code = said.get("message"), said.get("code")
    if isinstance(code, str):
        return from_wire(code, str(message))
    return PeerError(f"{url} broke the answer off: {str(message)[:300]}")


def _whole(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 4 else 0
