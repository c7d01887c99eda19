"""Events of which all but the text is written once: they are those that are written whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from capamesh.router.requests.generation.asked import Asked
from capamesh.router.requests.generation.chat_answer import ChatStream
from capamesh.router.requests.generation.completion_answer import CompletionStream
from capamesh.router.requests.generation.parts import Piece
from capamesh.router.requests.generation.written import TextEvent, Writer

TEXTS = (" the", '"\\\n\t\0', "é€😀\u2028", TextEvent.TEXT, "data: [DONE]\n\n")
ODD = f'm"{TextEvent.TEXT}\\é'
"""A model's name that has what stands for the text."""


def asked(*, has_usage: bool) -> Asked:
    return Asked(ODD, ({"prompt": "Hi"},), {}, is_streamed=True, has_usage=has_usage)


def said_by(writer: Writer, choice: int, text: str) -> Any:
    sent = writer.take(choice, Piece(t=(2,), x=text))
    assert sent.startswith(b"data: ")
    assert sent.endswith(b"\n\n")
    return json.loads(sent[6:])


@pytest.mark.parametrize("is_chat", [False, True])
@pytest.mark.parametrize("has_usage", [False, True])
def test_texts_differ_in_nothing_else(*, has_usage: bool, is_chat: bool) -> None:
    request = asked(has_usage=has_usage)
    writer: Writer = CompletionStream(request, "7", 1_700_000_000)
    if is_chat:
        writer = ChatStream(request, "7", 1_700_000_000, str)
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    head = {"id": "7", "object": kind, "created": 1_700_000_000, "model": ODD}
    for choice in (1, 0):
        writer.take(choice, Piece(t=(1,), x="first"))
        for text in TEXTS:
            body = {"delta": {"content": text}} if is_chat else {"text": text}
            one = {"index": choice, **body, "logprobs": None, "finish_reason": None}
            usage = {"usage": None} if has_usage else {}
            assert said_by(writer, choice, text) == {**head, "choices": [one], **usage}
