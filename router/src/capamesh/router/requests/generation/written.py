"""The pieces that writers of generated answers have in common: usage, log probabilities, tool calls, ends. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final, Protocol

from mypy_extensions import mypyc_attr

from capamesh.protocol.errors import TooLarge
from capamesh.router.requests.generation.parts import Piece, ToolDelta, Usage

DONE: Final = b"data: [DONE]\n\n"
"""The last event of a stream."""
RESUMED: Final = b": resumed\n\n"
"""A comment of a stream, which clients skip: another node goes on with the answer."""
BROKEN: Final = "\ufffd"
"""Stands for bytes of a token that are no whole character."""
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


@mypyc_attr(native_class=False)
class Writer(Protocol):
    """Writes one answer for a client: what is to be sent at once, and at the end."""

    __slots__ = ()

    def take(self, choice: int, piece: Piece) -> bytes:
        """Return what is to be sent of a piece now. Raises `TooLarge`: what is held is over a limit."""
        ...

    def resumed(self) -> bytes:
        """Return what is to be sent when another node goes on with the answer: the default says nothing."""
        return b""

    def end(self, usage: Usage) -> bytes:
        """Return what is to be sent at the end."""
        ...


def json_of(value: object) -> bytes:
    """Return a value as JSON in one line."""
    return _ENCODER.encode(value).encode()


def event(value: object) -> bytes:
    """Return a value as a server-sent event."""
    return b"data: %b\n\n" % json_of(value)


class TextEvent:
    """The server-sent event of a piece that is nothing but text: all but the text is written once."""

    __slots__ = ("_after", "_before")

    TEXT: Final = "\0text"
    """Stands where the text comes, behind all that a client has named."""

    def __init__(self, value: object) -> None:
        self._before, _, self._after = event(value).rpartition(json_of(self.TEXT))

    def of(self, text: str) -> bytes:
        """Return the event of a text."""
        return b"%b%b%b" % (self._before, encode_basestring_ascii(text).encode(), self._after)


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return what a request took, as OpenAI has it."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def differs(usage: Usage) -> dict[str, Any]:
    """Return the field that says of an answer that its text may be another than without the loss of a node; none where it is the same."""
    return {"text_may_differ": True} if usage.may_differ else {}


class Held:
    """The bytes that a whole answer holds until its end, and the most that it may."""

    __slots__ = ("_most", "_size")

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0

    def add(self, piece: Piece) -> None:
        """Count a piece in. Raises `TooLarge`."""
        self._size += 2 * len(piece.x) + sum(len(one.arguments) + 64 for one in piece.k)
        self._size += sum(100 * len(row) for row in piece.p or ())
        if self._size > self._most:
            raise TooLarge(
                f"the answer is over the router's limit on JSON, {self._most} bytes: ask for fewer tokens, or for a stream"
            )


class Calls:
    """The calls of tools of one choice: each has one id, from its first piece to its last."""

    __slots__ = ("_draw_id", "whole")

    def __init__(self, draw_id: Callable[[], str]) -> None:
        self._draw_id = draw_id
        self.whole: dict[int, dict[str, Any]] = {}
        """The calls by their numbers; their arguments grow only where they are told of whole."""

    def deltas(self, pieces: Sequence[ToolDelta]) -> list[dict[str, Any]]:
        """Return pieces of calls as a stream tells them: id, type and name stand in a call's first alone."""
        found: list[dict[str, Any]] = []
        for piece in pieces:
            entry: dict[str, Any] = {"index": piece.i}
            if piece.i not in self.whole:
                call = self._begin(piece)
                entry |= {"id": call["id"], "type": "function"}
                entry["function"] = {"name": piece.name, "arguments": piece.arguments}
            else:
                entry["function"] = {"arguments": piece.arguments}
            found.append(entry)
        return found

    def take(self, pieces: Sequence[ToolDelta]) -> None:
        """Take pieces of calls that are told of whole."""
        for piece in pieces:
            call = self.whole.get(piece.i) or self._begin(piece)
            call["function"]["arguments"] += piece.arguments

    def _begin(self, piece: ToolDelta) -> dict[str, Any]:
        call = {
            "id": piece.id or f"call_{self._draw_id()}",
            "type": "function",
            "function": {"name": piece.name, "arguments": ""},
        }
        self.whole[piece.i] = call
        return call


def finish_of(piece: Piece, calls: Calls) -> str | None:
    """Return the reason why a choice has ended, which is the calls of tools where it has any; None: it has not."""
    return "tool_calls" if calls.whole and piece.f == "stop" else piece.f


def chat_logprobs(piece: Piece, most: int | None) -> dict[str, Any] | None:
    """Return the log probabilities of a piece, with `most` alternatives, as chats have them; None: they are not wanted, or not told."""
    if most is None or piece.p is None:
        return None
    return {
        "content": [
            {**_logprob(row[0]), "top_logprobs": [_logprob(each) for each in row[1 : most + 1]]}
            for row in piece.p
        ],
        "refusal": None,
    }


def _logprob(told: tuple[int, str, float]) -> dict[str, Any]:
    _, text, value = told
    raw = None if BROKEN in text else list(text.encode())
    return {"token": text, "logprob": value, "bytes": raw}
