"""Generated texts, whole and in pieces, as routers and other servers of OpenAI's form have them."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

import pytest

from capamesh.client import Choice, CutOff, TextPiece, TokenLogprob, TokenUsage, ToolCall
from capamesh.client.answers import Answer
from capamesh.client.generation.answers import MOST_CHOICES, Assembly, read_generation
from capamesh.client.generation.events import Events
from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    ModelNotFound,
    PeerError,
    ProtocolViolation,
    TooLarge,
)

URL = "http://r:1"
CALL = {"index": 0, "id": "call_1", "type": "function"}


def whole(choices: object, status: int = 200, **others: object) -> Answer:
    body = {"id": "chatcmpl-7", "model": "m", "choices": choices, **others}
    return Answer(status, json.dumps(body).encode(), node="A,B", resumed="2")


def assembly_of(**headers: str) -> Assembly:
    return Assembly(Answer(200, b"", **headers), URL, 10_000)


def event(value: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(value).encode()


def streamed(*events: object) -> tuple[list[TextPiece], Assembly]:
    assembly = assembly_of(node="A")
    data = b"".join(map(event, events))
    pieces = [*assembly.pieces(data), *assembly.pieces(b"data: [DONE]\n\n"), *assembly.pieces(b"")]
    return pieces, assembly


def delta(choice: int = 0, finish: str | None = None, **message: object) -> dict[str, Any]:
    one = {"index": choice, "delta": message, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-7", "model": "m", "choices": [one], "usage": None}


def test_chat_is_read_whole() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    message = {"role": "assistant", "content": "Hi", "refusal": None}
    answer = whole(
        [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}], usage=usage
    )
    found = read_generation(answer, URL)
    assert (found.text, found.finish, found.tool_calls) == ("Hi", "stop", ())
    assert found.usage == TokenUsage(9, 5, 4)
    assert found.usage.total_tokens == 14
    assert (found.model, found.id, found.nodes) == ("m", "chatcmpl-7", ("A", "B"))
    assert (found.router, found.resumes) == (URL, 2)
    assert found.choices[0].as_message() == {"role": "assistant", "content": "Hi"}


def test_continuations_are_read_whole_in_the_order_of_their_numbers() -> None:
    choices = [
        {"index": 1, "text": "b", "finish_reason": "length", "logprobs": None},
        {
            "index": 0,
            "text": "a",
            "finish_reason": "stop",
            "logprobs": {
                "tokens": ["a", "!"],
                "token_logprobs": [-0.5, None],
                "top_logprobs": [{"a": -0.5, "b": -2.0}, None],
                "text_offset": [0, 1],
            },
        },
    ]
    found = read_generation(whole(choices), URL)
    logprobs = (TokenLogprob("a", -0.5, (("a", -0.5), ("b", -2.0))), TokenLogprob("!", 0.0))
    assert found.choices == (Choice("a", "stop", (), logprobs), Choice("b", "length"))
    assert found.usage == TokenUsage()


def test_stream_is_put_together() -> None:
    token = {"token": "lo", "logprob": -1.0, "bytes": [108, 111]}
    other = delta(1, content="other", role="assistant")
    told = delta(content="lo")
    told["choices"][0]["logprobs"] = {
        "content": [{**token, "top_logprobs": [{**token, "token": "x"}]}],
        "refusal": None,
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None}
    pieces, assembly = streamed(
        delta(role="assistant", content="Hel"),
        other,
        told,
        delta(finish="stop"),
        delta(1, finish="length"),
        {"choices": [], "usage": usage},
    )
    assert pieces[0] == TextPiece("Hel")
    assert pieces[1] == TextPiece("other", 1)
    assert pieces[2].logprobs == (TokenLogprob("lo", -1.0, (("x", -1.0),)),)
    assert pieces[3:] == [TextPiece(finish="stop"), TextPiece(choice=1, finish="length")]
    found = assembly.generation()
    assert found.choices[0] == Choice("Hello", "stop", (), pieces[2].logprobs)
    assert found.choices[1] == Choice("other", "length")
    assert found.usage == TokenUsage(3, 2, 0)
    assert assembly.is_done


def test_calls_of_tools_are_put_together_and_are_a_message() -> None:
    pieces, assembly = streamed(
        delta(tool_calls=[{**CALL, "function": {"name": "f", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}], content=None),
        delta(finish="tool_calls"),
    )
    assert pieces[1].tool_calls == (ToolCall(0, "", "", '{"a"'),)
    found = assembly.generation()
    assert found.tool_calls == (ToolCall(0, "call_1", "f", '{"a":1}'),)
    function = {"name": "f", "arguments": '{"a":1}'}
    assert found.choices[0].as_message()["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": function}
    ]
    # those of whole answers have no number
    calls = [{"id": "call_1", "type": "function", "function": function}]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    same = read_generation(
        whole([{"index": 0, "message": message, "finish_reason": "tool_calls"}]), URL
    )
    assert (same.text, same.tool_calls) == ("", found.tool_calls)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        ({"message": "full", "code": "invalid_request"}, InvalidRequest, "full"),
        ({"message": "gone", "code": 500}, PeerError, "http://r:1 broke the answer off: gone"),
        ("oops", PeerError, "http://r:1 broke the answer off: oops"),
        (None, CutOff, "ended before its last event"),
    ],
)
def test_error_in_a_stream_is_raised_and_what_came_is_kept(
    error: object, kind: type[CapameshError], said: str
) -> None:
    assembly = assembly_of()
    pieces = list(assembly.pieces(event(delta(content="Hel", finish="stop"))))
    assert "".join(piece.text for piece in pieces) == "Hel"
    with pytest.raises(kind, match=said):
        list(assembly.pieces(event({"error": error}) if error else b""))
    assert assembly.generation().text == "Hel"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "answers with no stream of events"),
        (b"data: {}x\n\n", "the answer is none to a request for generation"),
        (b'data: {"choices": 3}\n\n', "choices is 3, expected a list"),
        (b'data: {"choices": [{"index": %d}]}\n\n' % MOST_CHOICES, "answers choice 1024"),
    ],
)
def test_answer_that_is_no_stream_is_a_violation(body: bytes, said: str) -> None:
    cut = chain.from_iterable(map(assembly_of().pieces, (body, b"")))
    with pytest.raises(ProtocolViolation, match=said):
        list(cut)


def test_whole_answers_that_are_none_are_told() -> None:
    with pytest.raises(ProtocolViolation, match="has no choices"):
        read_generation(whole([]), URL)
    with pytest.raises(ProtocolViolation, match="is this a router's URL"):
        read_generation(Answer(200, b"<html>"), URL)
    body = {"error": {"message": "no such model", "code": "model_not_found"}}
    refusal = Answer(404, json.dumps(body).encode(), "model_not_found")
    with pytest.raises(ModelNotFound, match="no such model"):
        read_generation(refusal, URL)


STREAM = (
    b": hello\n\ndata: one\n\nevent: x\r\ndata: two\r\ndata:three\r\n\r\n: resumed\n\nid: 7\n\n"
    b"data: \xc3\xa4\n\n:resumed\n\ndata: [DONE]\n\ndata: never complete\n"
)
TOLD = [b"one", b"two\nthree", "ä".encode(), b"[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_are_the_same_however_bytes_are_cut(size: int) -> None:
    events = Events(10_000)
    cut = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert [event for data in cut for event in events.of(data)] == TOLD
    assert events.resumes == 2


def test_cr_alone_ends_a_line_and_a_stream_has_a_bound() -> None:
    events = Events(100)
    assert list(events.of(b"data: a\r\rdata: b\r")) == [b"a"]
    assert list(events.of(b"\rx")) == [b"b"]
    events = Events(10)
    assert list(events.of(b"data: 1\n\n")) == [b"1"]
    with pytest.raises(TooLarge, match="more than 10 bytes"):
        list(events.of(b"xx"))
