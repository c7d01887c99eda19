"""Texts over Triton's generate extension, as its backends for language models have them: read and written. Pure."""

from __future__ import annotations

from typing import Any, Final

from typing_extensions import override

from capamesh.router.requests.generation.asked import MOST_BYTES, Asked, affinity_of
from capamesh.router.requests.generation.bodies import TextInputRequest
from capamesh.router.requests.generation.chat_request import common_settings
from capamesh.router.requests.generation.completion_request import PREFIX, USUAL_TOKENS
from capamesh.router.requests.generation.fields import Values, flag, table, text
from capamesh.router.requests.generation.foreign_fields import taken
from capamesh.router.requests.generation.guides import guide_of
from capamesh.router.requests.generation.messages import MOST_ID
from capamesh.router.requests.generation.parts import Piece, Usage
from capamesh.router.requests.generation.sampling import most_tokens_of, sampling_of
from capamesh.router.requests.generation.written import (
    RESUMED,
    Held,
    TextEvent,
    Writer,
    differs,
    event,
    json_of,
)
from capamesh.router.requests.invalid_parameter import InvalidParameter

INPUT: Final = "text_input"
OUTPUT: Final = "text_output"
_STOPS: Final = "stop_words"
"""The name by which some of Triton's clients call the texts that end an answer."""


def read_text_input(values: Values, model: str, *, is_streamed: bool) -> Asked:
    """Return what a body asks for; settings stand in `parameters`, or beside them. Raises `InvalidParameter`."""
    prompt = text(values, INPUT, MOST_BYTES)
    if not prompt:
        raise InvalidParameter(INPUT, f"{INPUT} is missing or empty; give a text")
    inner = taken(table(values, "parameters") or {}, TextInputRequest, at="parameters.")
    settled = {**taken(values, TextInputRequest), **inner}
    settled.setdefault("stop", settled.get(_STOPS))
    max_tokens = most_tokens_of(settled, "max_tokens") or USUAL_TOKENS
    settings = {**sampling_of(settled, max_tokens), **guide_of(settled)}
    if settled.get("exclude_input_in_output") is not None and not flag(
        settled, "exclude_input_in_output"
    ):
        settings["echo"] = True
    settings.update(common_settings(1, max_tokens, None))
    return Asked(
        model=model,
        prompts=({"prompt": prompt},),
        settings=settings,
        max_tokens=max_tokens,
        is_streamed=is_streamed,
        affinity=affinity_of(prompt[:PREFIX]),
    )


class TextOutput(Writer):
    """The text that was generated, whole or a piece an event."""

    def __init__(self, asked: Asked, values: Values, version: str, most_bytes: int) -> None:
        """`values` are the body's; `most_bytes` is the most that is held until the end. Raises `InvalidParameter`."""
        self._asked = asked
        self._head: dict[str, Any] = {"model_name": asked.model, "model_version": version}
        name = text(values, "id", MOST_ID)
        if name:
            self._head["id"] = name
        self._event = TextEvent({**self._head, OUTPUT: TextEvent.TEXT})
        self._held = Held(most_bytes)
        self._texts: list[str] = []

    @override
    def take(self, choice: int, piece: Piece) -> bytes:
        if self._asked.is_streamed:
            return self._event.of(piece.x) if piece.x else b""
        self._held.add(piece)
        self._texts.append(piece.x)
        return b""

    @override
    def resumed(self) -> bytes:
        return RESUMED if self._asked.is_streamed else b""

    @override
    def end(self, usage: Usage) -> bytes:
        told = differs(usage)
        if self._asked.is_streamed:
            return event({**self._head, OUTPUT: "", **told}) if told else b""
        return json_of({**self._head, OUTPUT: "".join(self._texts), **told})
