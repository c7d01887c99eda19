"""Writes a chat's next message for a client, whole or as server-sent events, as OpenAI has it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from typing_extensions import override

from capamesh.router.requests.generation.asked import Asked
from capamesh.router.requests.generation.parts import Piece, Usage
from capamesh.router.requests.generation.written import (
    DONE,
    RESUMED,
    Calls,
    Held,
    TextEvent,
    Writer,
    chat_logprobs,
    differs,
    event,
    finish_of,
    json_of,
    usage_of,
)

CHUNK: Final = "chat.completion.chunk"


class ChatStream(Writer):
    """The events of a chat's next message: the role stands in a choice's first, the reason of its end in its last."""

    def __init__(
        self, asked: Asked, answer_id: str, created_s: int, draw_id: Callable[[], str]
    ) -> None:
        """`created_s` is in seconds since 1970; `draw_id` returns a text by chance."""
        self._asked = asked
        self._draw_id = draw_id
        self._head: dict[str, Any] = {
            "id": answer_id,
            "object": CHUNK,
            "created": created_s,
            "model": asked.model,
        }
        self._choices: dict[int, Calls] = {}
        """The choices that were begun."""
        self._texts: dict[int, TextEvent] = {}
        """The events of more text, by the choices that have had any."""

    @override
    def take(self, choice: int, piece: Piece) -> bytes:
        calls = self._choices.get(choice)
        if piece.x and calls is not None and piece.p is None and piece.f is None and not piece.k:
            return self._text_event(choice).of(piece.x)
        delta: dict[str, Any] = {}
        if calls is None:
            calls = self._choices[choice] = Calls(self._draw_id)
            delta = {"role": "assistant", "content": piece.x}
        elif piece.x:
            delta = {"content": piece.x}
        if piece.k:
            delta["tool_calls"] = calls.deltas(piece.k)
        logprobs = chat_logprobs(piece, self._asked.logprobs)
        sent = b""
        if delta or logprobs is not None:
            sent = self._event(choice, delta, logprobs, None)
        finish = finish_of(piece, calls)
        if finish is not None:
            sent += self._event(choice, {}, None, finish)
        return sent

    @override
    def resumed(self) -> bytes:
        return RESUMED

    @override
    def end(self, usage: Usage) -> bytes:
        told = differs(usage)
        if self._asked.has_usage:
            told["usage"] = usage_of(usage)
        return (event({**self._head, "choices": [], **told}) if told else b"") + DONE

    def _text_event(self, choice: int) -> TextEvent:
        found = self._texts.get(choice)
        if found is None:
            chunk = self._chunk(choice, {"content": TextEvent.TEXT}, None, None)
            found = self._texts[choice] = TextEvent(chunk)
        return found

    def _event(
        self,
        choice: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        finish: str | None,
    ) -> bytes:
        return event(self._chunk(choice, delta, logprobs, finish))

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None,
        finish: str | None,
    ) -> dict[str, Any]:
        one = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = {**self._head, "choices": [one]}
        if self._asked.has_usage:
            chunk["usage"] = None
        return chunk


class ChatWhole(Writer):
    """A chat's next message at once."""

    def __init__(
        self,
        asked: Asked,
        answer_id: str,
        created_s: int,
        draw_id: Callable[[], str],
        most_bytes: int,
    ) -> None:
        """`most_bytes` is the most that is held until the end; the others are those of `ChatStream`."""
        self._asked = asked
        self._id = answer_id
        self._created_s = created_s
        self._held = Held(most_bytes)
        self._choices = {choice: _Choice(Calls(draw_id)) for choice in range(asked.choices)}

    @override
    def take(self, choice: int, piece: Piece) -> bytes:
        self._held.add(piece)
        found = self._choices[choice]
        found.texts.append(piece.x)
        found.calls.take(piece.k)
        logprobs = chat_logprobs(piece, self._asked.logprobs)
        if logprobs is not None:
            found.logprobs += logprobs["content"]
        found.finish = finish_of(piece, found.calls) or found.finish
        return b""

    @override
    def end(self, usage: Usage) -> bytes:
        return json_of(
            {
                "id": self._id,
                "object": "chat.completion",
                "created": self._created_s,
                "model": self._asked.model,
                "choices": [self._told(at, found) for at, found in self._choices.items()],
                "usage": usage_of(usage),
                **differs(usage),
            }
        )

    def _told(self, choice: int, found: _Choice) -> dict[str, Any]:
        text = "".join(found.texts)
        calls = list(found.calls.whole.values())
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not text else text,
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = calls
        logprobs = None
        if self._asked.logprobs is not None:
            logprobs = {"content": found.logprobs, "refusal": None}
        return {
            "index": choice,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": found.finish,
        }


class _Choice:
    """One choice, as far as it has come."""

    __slots__ = ("calls", "finish", "logprobs", "texts")

    def __init__(self, calls: Calls) -> None:
        self.texts: list[str] = []
        self.calls = calls
        self.logprobs: list[dict[str, Any]] = []
        self.finish: str | None = None
