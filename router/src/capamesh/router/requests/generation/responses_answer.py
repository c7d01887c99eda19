"""Writes a response for a client, whole or as server-sent events, as OpenAI's newer route has it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from typing_extensions import override

from capamesh.router.requests.generation.asked import Asked
from capamesh.router.requests.generation.parts import Piece, ToolDelta, Usage
from capamesh.router.requests.generation.written import RESUMED, Held, Writer, differs, json_of

_NOTHING: Final[dict[str, Any]] = {
    "error": None,
    "incomplete_details": None,
    "previous_response_id": None,
    "reasoning": None,
    "store": False,
    "truncation": "disabled",
    "metadata": {},
}
"""The fields of a response that say nothing here."""


class ResponseWriter(Writer):
    """One response: its message and the calls of tools, in the order in which they began."""

    def __init__(
        self,
        asked: Asked,
        draw_id: Callable[[], str],
        created_s: int,
        most_bytes: int,
    ) -> None:
        """`most_bytes` is the most that is held until the end, of streams too: their last event has all of it."""
        self._asked = asked
        self._draw_id = draw_id
        self._held = Held(most_bytes)
        self._head: dict[str, Any] = {
            "id": f"resp_{draw_id()}",
            "object": "response",
            "created_at": created_s,
            "model": asked.model,
            "max_output_tokens": asked.max_tokens,
            "temperature": asked.settings.get("temperature"),
            "top_p": asked.settings.get("top_p"),
            "parallel_tool_calls": "parallel_tool_calls" not in asked.prompts[0],
            "tool_choice": asked.prompts[0].get("tool_choice", "auto"),
            "tools": [
                {"type": "function", **each["function"]}
                for each in asked.prompts[0].get("tools", ())
            ],
            **_NOTHING,
        }
        self._output: list[dict[str, Any]] = []
        """The items so far; their texts are complete only at the end."""
        self._texts: list[str] = []
        """The pieces of the message's text."""
        self._message: int | None = None
        """The place of the message among the items; None: it has not begun."""
        self._calls: dict[int, int] = {}
        """The places of calls of tools, by the numbers that nodes give them."""
        self._finish: str | None = None
        self._count = 0
        """The events so far."""

    @override
    def take(self, choice: int, piece: Piece) -> bytes:
        self._held.add(piece)
        self._finish = piece.f or self._finish
        sent = b"" if self._count else self._begin()
        if piece.x:
            sent += self._text(piece.x)
        for each in piece.k:
            sent += self._call(each)
        return sent if self._asked.is_streamed else b""

    @override
    def resumed(self) -> bytes:
        return RESUMED if self._asked.is_streamed else b""

    @override
    def end(self, usage: Usage) -> bytes:
        sent = b"".join([self._done(place) for place in range(len(self._output))])
        is_cut = self._finish == "length"
        whole = self._response("incomplete" if is_cut else "completed")
        if is_cut:
            whole["incomplete_details"] = {"reason": "max_output_tokens"}
        whole["usage"] = {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        }
        whole |= differs(usage)
        if not self._asked.is_streamed:
            return json_of(whole)
        return sent + self._event(f"response.{whole['status']}", response=whole)

    def _begin(self) -> bytes:
        now = self._response("in_progress")
        return self._event("response.created", response=now) + self._event(
            "response.in_progress", response=now
        )

    def _text(self, text: str) -> bytes:
        self._texts.append(text)
        sent = b""
        place = self._message
        if place is None:
            place = self._message = len(self._output)
            item = {
                "type": "message",
                "id": f"msg_{self._draw_id()}",
                "status": "in_progress",
                "role": "assistant",
                "content": list[dict[str, Any]](),
            }
            self._output.append(item)
            sent = self._event("response.output_item.added", output_index=place, item=item)
            sent += self._of_text("response.content_part.added", part=_part(""))
        return sent + self._of_text("response.output_text.delta", delta=text, logprobs=[])

    def _call(self, piece: ToolDelta) -> bytes:
        sent = b""
        place = self._calls.get(piece.i)
        if place is None:
            place = self._calls[piece.i] = len(self._output)
            item = {
                "type": "function_call",
                "id": f"fc_{self._draw_id()}",
                "call_id": piece.id or f"call_{self._draw_id()}",
                "name": piece.name,
                "arguments": "",
                "status": "in_progress",
            }
            self._output.append(item)
            sent = self._event("response.output_item.added", output_index=place, item=item)
        item = self._output[place]
        item["arguments"] += piece.arguments
        return sent + self._event(
            "response.function_call_arguments.delta",
            item_id=item["id"],
            output_index=place,
            delta=piece.arguments,
        )

    def _done(self, place: int) -> bytes:
        """Complete an item, and return the events that say so."""
        item = self._output[place]
        item["status"] = "incomplete" if self._finish == "length" else "completed"
        if place == self._message:
            text = "".join(self._texts)
            item["content"] = [_part(text)]
            sent = self._of_text("response.output_text.done", text=text, logprobs=[])
            sent += self._of_text("response.content_part.done", part=_part(text))
        else:
            sent = self._event(
                "response.function_call_arguments.done",
                item_id=item["id"],
                output_index=place,
                name=item["name"],
                arguments=item["arguments"],
            )
        return sent + self._event("response.output_item.done", output_index=place, item=item)

    def _of_text(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - what JSON has
        place = self._message or 0
        item_id = self._output[place]["id"]
        return self._event(kind, item_id=item_id, output_index=place, content_index=0, **fields)

    def _response(self, status: str) -> dict[str, Any]:
        return {**self._head, "status": status, "output": self._output, "usage": None}

    def _event(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - what JSON has
        number, self._count = self._count, self._count + 1
        if not self._asked.is_streamed:
            return b""
        told = json_of({"type": kind, "sequence_number": number, **fields})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), told)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
