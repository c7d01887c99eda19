"""The request for embeddings, and its answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from capamesh.client.answers import Answer
from capamesh.client.asks import GRACE_S, UNASKED_WAIT_S
from capamesh.client.embeddings import ask_embeddings, read_embeddings
from capamesh.client.routing_options import RoutingOptions
from capamesh.protocol.errors import InvalidRequest, ModelNotFound, ProtocolViolation

VECTORS = np.array([[1.5, -2.0], [0.25, 4.0]], np.float32)


def entry(index: int, vector: object) -> dict[str, object]:
    raw = vector.astype("<f4").tobytes() if isinstance(vector, np.ndarray) else vector
    said = base64.b64encode(raw).decode() if isinstance(raw, bytes) else raw
    return {"object": "embedding", "index": index, "embedding": said}


def answer(data: object, **others: object) -> Answer:
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    body = {"object": "list", "data": data, "model": "words", "usage": usage, **others}
    return Answer(200, json.dumps(body).encode(), node="A,B")


def sent(texts: Any, **options: Any) -> dict[str, Any]:
    return dict(json.loads(b"".join(ask_embeddings("words", texts, **options).buffers)))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("ä cat", ["ä cat"]),
        (["a", "b"], ["a", "b"]),
        (("a",), ["a"]),
        ([[7, 8], [9]], [[7, 8], [9]]),
        ([np.array([7, 8], np.int32)], [[7, 8]]),
        ([], []),
    ],
)
def test_texts_go_as_openais_route_takes_them(texts: Any, said: object) -> None:
    assert sent(texts) == {"model": "words", "input": said, "encoding_format": "base64"}


def test_dimensions_way_and_time_are_told() -> None:
    assert sent("a", dimensions=2)["dimensions"] == 2
    ask = ask_embeddings("words", "a", timeout_s=3.0, routing=RoutingOptions(regions=("eu",)))
    assert (ask.method, ask.path, ask.wait_s) == ("POST", "/v1/embeddings", 3.0 + GRACE_S)
    assert ask.headers == {
        "Content-Type": "application/json",
        **RoutingOptions(regions=("eu",)).headers(),
    }
    assert ask.renew is not None
    assert (ask.renew(1.0).wait_s, ask.renew(1.0).buffers) == (1.0 + GRACE_S, ask.buffers)
    assert ask_embeddings("words", "a").wait_s == UNASKED_WAIT_S


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([7, 8], {}, "text 0 is 7; a text, or a list of the numbers of its tokens"),
        ([None], {}, "text 0 is None; a text"),
        (["\ud800"], {}, "the texts cannot be sent: "),
        ([["a", object()]], {}, "the texts cannot be sent: "),
        ("a", {"timeout_s": 0}, "timeout_s is 0; give seconds above 0"),
    ],
)
def test_texts_that_cannot_be_sent_are_refused(texts: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ask_embeddings("words", texts, **options)
    with pytest.raises(InvalidRequest, match="the model's name is empty"):
        ask_embeddings("", "a")


def test_vectors_are_in_the_order_of_the_texts_and_the_callers_own() -> None:
    found = read_embeddings(answer([entry(1, VECTORS[1]), entry(0, VECTORS[0])]), "http://r", 2)
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, VECTORS)
    found.vectors[0, 0] = 7.0
    assert (found.tokens, found.model, found.nodes, found.router) == (
        5,
        "words",
        ("A", "B"),
        "http://r",
    )


@pytest.mark.parametrize(
    "data",
    [
        [],
        [entry(0, VECTORS[0])],
        [entry(0, VECTORS[0])] * 2,
        [entry(0, VECTORS[0]), entry(2, VECTORS[1])],
        [entry(0, VECTORS[0]), entry(1, VECTORS[1][:1])],
        [entry(0, b""), entry(1, b"")],
        [entry(0, "?"), entry(1, "?")],
        [entry(0, [1.5, -2.0]), entry(1, [0.25, 4.0])],
        [{"index": "x"}, {}],
        [7, 8],
        None,
    ],
)
def test_answer_without_a_vector_for_each_text_is_none(data: object) -> None:
    with pytest.raises(ProtocolViolation, match="the answer has no embeddings: "):
        read_embeddings(answer(data), "http://r", 2)
    for usage in (None, {}, {"total_tokens": "x"}):
        with pytest.raises(ProtocolViolation):
            read_embeddings(answer([entry(0, VECTORS[0])], usage=usage), "http://r", 1)
    body = json.dumps({"error": {"message": "no such model", "code": "model_not_found"}}).encode()
    refusal = Answer(404, body, error_code="model_not_found")
    with pytest.raises(ModelNotFound, match="no such model"):
        ask_embeddings("words", "a").read(refusal, "http://r")
