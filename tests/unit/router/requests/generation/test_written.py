"""Events of which all but the text is written once: they are those that are written whole."""

from __future__ import annotations

import json

import pytest

from capamesh.router.requests.generation.asked import Asked
from capamesh.router.requests.generation.chat_answer import ChatStream
from capamesh.router.requests.generation.completion_answer import CompletionStream
from capamesh.router.requests.generation.parts import Piece
from capamesh.router.requests.generation.written import TextEvent, Writer

TEXTS = (" the", '"\\\n\t\0', "é€😀\u2028", TextEvent.TEXT, "data: [DONE]\n\n")
ODD = f'm"{TextEvent.TEXT}\\é'
"""A model's name that has what stands for the text."""


def asked(model: str = "chat", *, has_usage: bool = False) -> Asked:
    return Asked(model, ({"prompt": "Hi"},), {}, is_streamed=True, has_usage=has_usage)


@pytest.mark.parametrize("has_usage", [False, True])
def test_texts_of_completions_differ_in_nothing_else(*, has_usage: bool) -> None:
    writer = CompletionStream(asked(ODD, has_usage=has_usage), "cmpl-7", 1_700_000_000)
    for choice in (1, 0, 1):
        for text in TEXTS:
            one = {"index": choice, "text": text, "logprobs": None, "finish_reason": None}
            assert said_by(writer, choice, text) == {
                "id": "cmpl-7",
                "object": "text_completion",
                "created": 1_700_000_000,
                "model": ODD,
                "choices": [one],
                **({"usage": None} if has_usage else {}),
            }


@pytest.mark.parametrize("has_usage", [False, True])
def test_texts_of_chats_differ_in_nothing_else(*, has_usage: bool) -> None:
    writer = ChatStream(asked(ODD, has_usage=has_usage), "chatcmpl-7", 1_700_000_000, str)
    for choice in (1, 0):
        writer.take(choice, Piece(t=(1,), x="first"))
        for text in TEXTS:
            one = {"index": choice, "delta": {"content": text}, "logprobs": None}
            assert said_by(writer, choice, text) == {
                "id": "chatcmpl-7",
                "object": "chat.completion.chunk",
                "created": 1_700_000_000,
                "model": ODD,
                "choices": [{**one, "finish_reason": None}],
                **({"usage": None} if has_usage else {}),
            }


def said_by(writer: Writer, choice: int, text: str) -> object:
    sent = writer.take(choice, Piece(t=(2,), x=text))
    assert sent.startswith(b"data: ")
    assert sent.endswith(b"\n\n")
    found: object = json.loads(sent[6:])
    return found
