"""The requests for generation as they are sent."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from capamesh.client.asks import GRACE_S
from capamesh.client.generation.asks import (
    MOST_WAIT_S,
    Question,
    ask_chat,
    ask_complete,
)
from capamesh.client.routing_options import ANYWHERE, RoutingOptions
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.tensors import DEFAULT_LIMITS

HI = [{"role": "user", "content": "Hi"}]


def chat(messages: Any = "Hi", timeout_s: float | None = None, **parameters: Any) -> Question:
    return ask_chat(
        "m", messages, parameters, timeout_s=timeout_s, routing=ANYWHERE, limits=DEFAULT_LIMITS
    )


def complete(prompt: Any, **parameters: Any) -> Question:
    way = RoutingOptions(regions=("eu",))
    return ask_complete("m", prompt, parameters, timeout_s=None, routing=way, limits=DEFAULT_LIMITS)


def sent(question: Question, *, is_streamed: bool = False) -> dict[str, Any]:
    ask = question.streamed() if is_streamed else question.whole()
    return dict(json.loads(b"".join(ask.buffers)))


def test_chat_goes_as_openais_route_takes_it() -> None:
    assert sent(chat()) == {"model": "m", "messages": HI}
    assert sent(chat(HI, max_tokens=5, temperature=0, seed=None)) == {
        "model": "m",
        "messages": HI,
        "max_tokens": 5,
        "temperature": 0,
    }
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    assert sent(chat(), is_streamed=True) == {"model": "m", "messages": HI, **streamed}


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("ä", "ä"),
        (["a", "b"], ["a", "b"]),
        ([7, 8], [7, 8]),
        (np.array([7, 8], np.int32), [7, 8]),
        ([np.array([7, 8]), (9,)], [[7, 8], [9]]),
    ],
)
def test_prompts_go_as_texts_or_tokens(prompt: Any, said: object) -> None:
    assert sent(complete(prompt, echo=True)) == {"model": "m", "prompt": said, "echo": True}


def test_path_way_and_time_are_told() -> None:
    ask = chat(timeout_s=3.0).streamed()
    assert (ask.method, ask.path, ask.wait_s) == ("POST", "/v1/chat/completions", 3.0 + GRACE_S)
    assert ask.is_streamed
    assert ask.renew is not None
    assert (ask.renew(1.0).wait_s, ask.renew(1.0).buffers) == (1.0 + GRACE_S, ask.buffers)
    assert chat().whole().wait_s == MOST_WAIT_S
    other = complete("a").whole()
    assert (other.path, other.is_streamed) == ("/v1/completions", False)
    assert other.headers["X-Capamesh-Region"] == "eu"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_token": 5}, "there is no parameter 'max_token'; did you mean max_tokens?"),
        ({"temperature": float("nan")}, "the request cannot be sent as JSON"),
        ({"stop": [object()]}, "the request cannot be sent as JSON"),
        ({"timeout_s": 0}, "timeout_s is 0; give seconds above 0"),
    ],
)
def test_question_that_cannot_be_asked_is_refused(parameters: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        chat(**parameters).whole()
    with pytest.raises(InvalidRequest, match="the request cannot be sent as JSON"):
        chat("\ud800").whole()
    with pytest.raises(InvalidRequest, match="there is no parameter 'tools'"):
        complete("a", tools=[])
    with pytest.raises(InvalidRequest, match="the model's name is empty"):
        ask_chat("", "a", {}, timeout_s=None, routing=ANYWHERE, limits=DEFAULT_LIMITS)
