"""Writes the continuation of prompts for a client, whole or as server-sent events, as OpenAI has it. Pure."""

from __future__ import annotations

from typing import Any, Final

from typing_extensions import override

from capamesh.router.requests.generation.asked import Asked
from capamesh.router.requests.generation.parts import Piece, Usage
from capamesh.router.requests.generation.written import (
    DONE,
    RESUMED,
    Held,
    TextEvent,
    Writer,
    differs,
    event,
    json_of,
    usage_of,
)

KIND: Final = "text_completion"


class CompletionStream(Writer):
    """The events of a continuation: the reason of a choice's end stands in its last."""

    def __init__(self, asked: Asked, answer_id: str, created_s: int) -> None:
        """`created_s` is in seconds since 1970."""
        self._asked = asked
        self._head: dict[str, Any] = {
            "id": answer_id,
            "object": KIND,
            "created": created_s,
            "model": asked.model,
        }
        self._offsets: dict[int, int] = {}
        """The characters that were told of each choice's tokens."""
        self._texts: dict[int, TextEvent] = {}
        """The events of text, by the choices that have had any."""

    @override
    def take(self, choice: int, piece: Piece) -> bytes:
        if piece.x and piece.p is None and piece.f is None:
            found = self._texts.get(choice)
            if found is None:
                chunk = self._chunk(choice, TextEvent.TEXT, None, None)
                found = self._texts[choice] = TextEvent(chunk)
            return found.of(piece.x)
        logprobs = None
        if self._asked.logprobs is not None and piece.p is not None:
            logprobs = _Logprobs(self._offsets.get(choice, 0))
            logprobs.add(piece, self._asked.logprobs)
            self._offsets[choice] = logprobs.offset
        if not piece.x and logprobs is None and piece.f is None:
            return b""
        told = None if logprobs is None else logprobs.told()
        return event(self._chunk(choice, piece.x, told, piece.f))

    @override
    def resumed(self) -> bytes:
        return RESUMED

    @override
    def end(self, usage: Usage) -> bytes:
        told = differs(usage)
        if self._asked.has_usage:
            told["usage"] = usage_of(usage)
        return (event({**self._head, "choices": [], **told}) if told else b"") + DONE

    def _chunk(
        self, choice: int, text: str, logprobs: dict[str, Any] | None, finish: str | None
    ) -> dict[str, Any]:
        one = {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish}
        chunk = {**self._head, "choices": [one]}
        if self._asked.has_usage:
            chunk["usage"] = None
        return chunk


class CompletionWhole(Writer):
    """All continuations at once."""

    def __init__(self, asked: Asked, answer_id: str, created_s: int, most_bytes: int) -> None:
        """`most_bytes` is the most that is held until the end; `created_s` is in seconds since 1970."""
        self._asked = asked
        self._id = answer_id
        self._created_s = created_s
        self._held = Held(most_bytes)
        count = asked.choices * len(asked.prompts)
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._logprobs = [_Logprobs(0) for _ in range(count)]
        self._finishes: list[str | None] = [None] * count

    @override
    def take(self, choice: int, piece: Piece) -> bytes:
        self._held.add(piece)
        self._texts[choice].append(piece.x)
        if self._asked.logprobs is not None:
            self._logprobs[choice].add(piece, self._asked.logprobs)
        self._finishes[choice] = piece.f or self._finishes[choice]
        return b""

    @override
    def end(self, usage: Usage) -> bytes:
        has_logprobs = self._asked.logprobs is not None
        choices = [
            {
                "index": choice,
                "text": "".join(texts),
                "logprobs": self._logprobs[choice].told() if has_logprobs else None,
                "finish_reason": self._finishes[choice],
            }
            for choice, texts in enumerate(self._texts)
        ]
        return json_of(
            {
                "id": self._id,
                "object": KIND,
                "created": self._created_s,
                "model": self._asked.model,
                "choices": choices,
                "usage": usage_of(usage),
                **differs(usage),
            }
        )


class _Logprobs:
    """The log probabilities of one choice's tokens, in four lists."""

    __slots__ = ("_offsets", "_texts", "_top", "_values", "offset")

    def __init__(self, offset: int) -> None:
        self._texts: list[str] = []
        self._values: list[float] = []
        self._top: list[dict[str, float]] = []
        self._offsets: list[int] = []
        self.offset = offset
        """The place in the choice's text where the next token begins."""

    def add(self, piece: Piece, most: int) -> None:
        """Take those of a piece, with `most` alternatives each."""
        for (_, text, value), *others in piece.p or ():
            self._texts.append(text)
            self._values.append(value)
            self._top.append({each: chance for _, each, chance in others[:most]})
            self._offsets.append(self.offset)
            self.offset += len(text)

    def told(self) -> dict[str, Any]:
        """Return them as OpenAI has them."""
        return {
            "tokens": self._texts,
            "token_logprobs": self._values,
            "top_logprobs": self._top,
            "text_offset": self._offsets,
        }
