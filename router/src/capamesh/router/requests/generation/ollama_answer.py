"""Writes answers as Ollama's clients read them: one JSON object, or one a line. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from typing_extensions import override

from capamesh.router.requests.generation.asked import Asked
from capamesh.router.requests.generation.parts import Piece, Usage
from capamesh.router.requests.generation.written import Calls, Held, Writer, differs, json_of


class OllamaWriter(Writer):
    """One answer: in lines as it comes, where the request is for a stream, or in one object at the end."""

    def __init__(
        self,
        asked: Asked,
        wall_clock: Callable[[], float],
        draw_id: Callable[[], str],
        most_bytes: int,
        *,
        is_chat: bool,
    ) -> None:
        """`wall_clock` returns seconds since 1970, `most_bytes` is the most that is held until the end, and `is_chat` says that an answer is a message, else a text."""
        self._asked = asked
        self._is_chat = is_chat
        self._wall_clock = wall_clock
        self._began_s = wall_clock()
        self._first_s: float | None = None
        """The time of the first piece."""
        self._held = Held(most_bytes)
        self._texts: list[str] = []
        self._calls = Calls(draw_id)
        self._finish = "stop"

    @override
    def take(self, choice: int, piece: Piece) -> bytes:
        self._first_s = self._first_s or self._wall_clock()
        if piece.f == "length":
            self._finish = "length"
        self._calls.take(piece.k)
        if self._asked.is_streamed:
            self._held.add(Piece(k=piece.k))  # texts are not held
            return self._line(piece.x, {}) if piece.x else b""
        self._held.add(piece)
        self._texts.append(piece.x)
        return b""

    @override
    def end(self, usage: Usage) -> bytes:
        now_s = self._wall_clock()
        first_s = self._first_s or now_s
        told = {
            "done": True,
            "done_reason": self._finish,
            "total_duration": _ns(now_s - self._began_s),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt,
            "prompt_eval_duration": _ns(first_s - self._began_s),
            "eval_count": usage.completion,
            "eval_duration": _ns(now_s - first_s),
            **differs(usage),
        }
        return self._line("".join(self._texts), told)

    def _line(self, text: str, more: dict[str, Any]) -> bytes:
        made = datetime.fromtimestamp(self._wall_clock(), UTC)
        told: dict[str, Any] = {"model": self._asked.model, "created_at": made.isoformat()}
        if self._is_chat:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if more and self._calls.whole:
                message["tool_calls"] = [_call(each) for each in self._calls.whole.values()]
            told["message"] = message
        else:
            told["response"] = text
        return json_of({**told, **(more or {"done": False})}) + b"\n"


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call of a tool, whose arguments are an object here, or a text where the model has written none."""
    function = call["function"]
    try:
        arguments = cast("object", json.loads(function["arguments"] or "{}"))
    except (ValueError, RecursionError):
        arguments = function["arguments"]
    return {"function": {"name": function["name"], "arguments": arguments}}


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
