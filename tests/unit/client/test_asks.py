"""What a client asks: of inference, of embeddings, of generation, and what of it is sent again."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from capamesh.client.answers import Answer
from capamesh.client.asks import GRACE_S, UNASKED_WAIT_S, Ask, ask_infer
from capamesh.client.casting import cast_array
from capamesh.client.embeddings import ask_embeddings, read_embeddings
from capamesh.client.generation.asks import MOST_WAIT_S, Question, ask_chat, ask_complete
from capamesh.client.routing_options import ANYWHERE, RoutingOptions
from capamesh.protocol.errors import InvalidRequest, ModelNotFound, ProtocolViolation
from capamesh.protocol.oip import HEADER_LENGTH_NAME, InferRequest, Parameters, decode_request
from capamesh.protocol.tensors import DEFAULT_LIMITS, Datatype

ONE = {"X": np.ones(1, np.float32)}


def decoded(ask: Ask[Any]) -> InferRequest:
    length = ask.headers.get(HEADER_LENGTH_NAME)
    return decode_request("m", "", b"".join(ask.buffers), None if length is None else int(length))


# inference


@pytest.mark.parametrize("is_binary", [True, False])
def test_parameters_are_sent_as_they_are_beside_the_deadline_and_the_priority(
    is_binary: bool,
) -> None:
    def sent(**options: Any) -> Parameters:
        return dict(decoded(ask_infer("m", ONE, is_binary=is_binary, **options)).parameters)

    given = {"sequence_id": 7, "sequence_start": True, "note": "a", "x": 1.5}
    assert sent(parameters=given) == given
    assert sent(parameters=given, timeout_s=2) == {**given, "timeout": 2_000_000}
    assert sent(parameters=given, priority=1) == {**given, "priority": 1}
    assert set(given) == {"sequence_id", "sequence_start", "note", "x"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"parameters": {"timeout": 5}},
            "give timeout_s, in seconds, instead of the parameter 'timeout'",
        ),
        ({"parameters": {"binary_data_output": False}}, "give is_binary, instead of"),
        (
            {"parameters": {"a": None}},
            "parameter 'a' is None: a text, a finite number or a bool is expected",
        ),
        ({"parameters": {"a": float("nan")}}, "parameter 'a' is nan"),
        ({"priority": 1, "parameters": {"priority": 2}}, "the priority is given twice"),
        *[
            ({"priority": priority}, "a whole number from 1, first, to 255, last")
            for priority in (1.0, True, "1")
        ],
        *[
            ({"idempotency_key": key}, "at most 255 of printable ASCII")
            for key in (" a", "ä", "a\n", "a" * 256)
        ],
    ],
)
def test_request_that_cannot_be_sent_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ask_infer("m", ONE, **options)


def test_idempotency_key_is_a_header_and_what_has_one_is_asked_of_one_router() -> None:
    for key in ("4f9c-1", None):
        ask = ask_infer("m", ONE, idempotency_key=key) if key else ask_infer("m", ONE)
        assert ask.headers.get("Idempotency-Key") == key
        assert (ask.is_idempotent, ask.is_repeatable) == (key is not None, key is None)


def test_request_is_made_again_for_less_time() -> None:
    ask = ask_infer("m", ONE, timeout_s=5.0, id="r1", parameters={"note": "a"})
    assert ask.renew is not None
    again = ask.renew(2.0)
    asked = decoded(again)
    assert (asked.id, dict(asked.parameters)) == ("r1", {"note": "a", "timeout": 2_000_000})
    assert (again.wait_s, again.grace_s) == (2.0 + GRACE_S, GRACE_S)


def test_answer_that_was_kept_says_so_and_how_old_it_is() -> None:
    body = b'{"model_name": "m", "model_version": "1", "id": "", "outputs": [], "parameters": {"a": 1}}'
    for cache, age, found in (
        ("hit", "7", ("hit", 7.0)),
        ("repeated", "x", ("repeated", 0.0)),
        (None, "7", ("", 0.0)),
    ):
        outputs = ask_infer("m", ONE).read(Answer(200, body, cache=cache, age=age), "http://r:1")
        assert (outputs.cache, outputs.age_s, outputs.parameters) == (*found, {"a": 1})


@pytest.mark.parametrize(
    ("array", "wanted", "made"),
    [
        (np.float64([1.5, np.inf]), Datatype.FP16, np.float16([1.5, np.inf])),
        (np.float64([3.0]), Datatype.INT8, np.int8([3])),
        (np.float64([-(2**63), 2**53]), Datatype.INT64, np.int64([-(2**63), 2**53])),
        (np.int64([0, 255]), Datatype.UINT8, np.uint8([0, 255])),
        (np.int64([1, 0]), Datatype.BOOL, np.array([True, False])),
        (np.int64([3]), Datatype.BF16, np.float32([3.0])),
        (np.float64([3.38e38, np.inf]), Datatype.BF16, np.float64([3.38e38, np.inf])),
        (np.int64([1, -1]), Datatype.UINT8, "-1"),
        (np.uint8([255]), Datatype.INT8, "255"),
        (np.int8([2]), Datatype.BOOL, "2"),
        (np.uint64([2**63]), Datatype.INT64, "9223372036854775808"),
        (np.float64([2.0**63]), Datatype.INT64, "9.223372036854776e+18"),
        (np.float64([1.5]), Datatype.INT32, "1.5"),
        (np.float64([np.nan]), Datatype.INT32, "nan"),
        (np.float64([70000.0]), Datatype.FP16, "70000.0"),
        (np.float64([1.0, 1e300]), Datatype.BF16, "1e+300"),
        (np.float32([3.4e38]), Datatype.BF16, "3.3999999521443642e+38"),
        (np.array(["1"]), Datatype.FP32, "BYTES"),
        (np.array([1]), Datatype.BYTES, "INT64"),
    ],
)
def test_number_that_fits_is_cast_and_one_that_does_not_is_named(
    array: Any, wanted: Datatype, made: Any
) -> None:
    if isinstance(made, str):
        with pytest.raises(InvalidRequest) as caught:
            cast_array(array, wanted, "input 'x'")
        said = f"input 'x': {made} cannot be cast to {wanted}, which the model takes"
        assert caught.value.message == said
        return
    found = cast_array(array, wanted, "input 'x'")
    assert (found.dtype, found.tolist()) == (made.dtype, made.tolist())


# embeddings

VECTORS = np.array([[1.5, -2.0], [0.25, 4.0]], np.float32)


def entry(index: int, vector: Any) -> dict[str, object]:
    return {"object": "embedding", "index": index, "embedding": vector}


def in_base64(index: int, vector: np.ndarray) -> dict[str, object]:
    return entry(index, base64.b64encode(vector.astype("<f4").tobytes()).decode())


def answer(data: object, **others: object) -> Answer:
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    body = {"object": "list", "data": data, "model": "words", "usage": usage, **others}
    return Answer(200, json.dumps(body).encode(), node="A,B")


def json_of(ask: Ask[Any]) -> dict[str, Any]:
    return dict(json.loads(b"".join(ask.buffers)))


def test_texts_go_as_openais_route_takes_them() -> None:
    for texts, said in (
        ("ä cat", ["ä cat"]),
        (["a", "b"], ["a", "b"]),
        (("a",), ["a"]),
        ([[7, 8], [9]], [[7, 8], [9]]),
        ([np.array([7, 8], np.int32)], [[7, 8]]),
        ([], []),
    ):
        body = {"model": "words", "input": said, "encoding_format": "base64"}
        assert json_of(ask_embeddings("words", texts)) == body
        assert json_of(ask_embeddings("words", texts, dimensions=2)) == {**body, "dimensions": 2}


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([7, 8], {}, "text 0 is 7; a text, or a list of the numbers of its tokens"),
        ([None], {}, "text 0 is None; a text"),
        (["\ud800"], {}, "the texts cannot be sent: "),
        ([["a", object()]], {}, "the texts cannot be sent: "),
        ("a", {"timeout_s": 0}, "timeout_s is 0; give seconds above 0"),
        ("a", {"model": ""}, "the model's name is empty"),
    ],
)
def test_texts_that_cannot_be_sent_are_refused(texts: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        ask_embeddings(**{"model": "words", "texts": texts, **options})


def test_vectors_are_in_the_order_of_the_texts_and_the_callers_own() -> None:
    data = [in_base64(at, VECTORS[at]) for at in (1, 0)]
    found = read_embeddings(answer(data), "http://r", 2)
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, VECTORS)
    found.vectors[0, 0] = 7.0
    assert (found.tokens, found.model, found.nodes) == (5, "words", ("A", "B"))
    assert found.router == "http://r"


@pytest.mark.parametrize(
    "data",
    [
        [],
        [in_base64(0, VECTORS[0])],
        [in_base64(0, VECTORS[0])] * 2,
        [in_base64(0, VECTORS[0]), in_base64(2, VECTORS[1])],
        [in_base64(0, VECTORS[0]), in_base64(1, VECTORS[1][:1])],
        [entry(0, ""), entry(1, "")],
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
            read_embeddings(answer([in_base64(0, VECTORS[0])], usage=usage), "http://r", 1)
    body = json.dumps({"error": {"message": "no such model", "code": "model_not_found"}}).encode()
    refusal = Answer(404, body, error_code="model_not_found")
    with pytest.raises(ModelNotFound, match="no such model"):
        ask_embeddings("words", "a").read(refusal, "http://r")


# generation

HI = [{"role": "user", "content": "Hi"}]
EU = RoutingOptions(regions=("eu",))


def chat(messages: Any = "Hi", timeout_s: float | None = None, **parameters: Any) -> Question:
    return ask_chat(
        "m", messages, parameters, timeout_s=timeout_s, routing=ANYWHERE, limits=DEFAULT_LIMITS
    )


def complete(prompt: Any, **parameters: Any) -> Question:
    return ask_complete("m", prompt, parameters, timeout_s=None, routing=EU, limits=DEFAULT_LIMITS)


def test_chat_goes_as_openais_route_takes_it() -> None:
    asked = {"model": "m", "messages": HI}
    assert json_of(chat().whole()) == asked
    question = chat(HI, max_tokens=5, temperature=0, seed=None)
    assert json_of(question.whole()) == {**asked, "max_tokens": 5, "temperature": 0}
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    assert json_of(chat().streamed()) == {**asked, **streamed}


def test_prompts_go_as_texts_or_tokens() -> None:
    for prompt, said in (
        ("ä", "ä"),
        (["a", "b"], ["a", "b"]),
        ([7, 8], [7, 8]),
        (np.array([7, 8], np.int32), [7, 8]),
        ([np.array([7, 8]), (9,)], [[7, 8], [9]]),
    ):
        sent = json_of(complete(prompt, echo=True).whole())
        assert sent == {"model": "m", "prompt": said, "echo": True}


def test_path_way_and_time_are_told() -> None:
    embedding = ask_embeddings("words", "a", timeout_s=3.0, routing=EU)
    talk = chat(timeout_s=3.0).streamed()
    for ask, path in ((embedding, "embeddings"), (talk, "chat/completions")):
        assert (ask.method, ask.path, ask.wait_s) == ("POST", f"/v1/{path}", 3.0 + GRACE_S)
        assert ask.renew is not None
        assert (ask.renew(1.0).wait_s, ask.renew(1.0).buffers) == (1.0 + GRACE_S, ask.buffers)
    assert embedding.headers == {"Content-Type": "application/json", **EU.headers()}
    other = complete("a").whole()
    assert (other.path, other.headers["X-Capamesh-Region"]) == ("/v1/completions", "eu")
    assert (talk.is_streamed, other.is_streamed) == (True, False)
    waits = (chat().whole().wait_s, ask_embeddings("words", "a").wait_s)
    assert waits == (MOST_WAIT_S, UNASKED_WAIT_S)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_token": 5}, "there is no parameter 'max_token'; did you mean max_tokens?"),
        ({"temperature": float("nan")}, "the request cannot be sent as JSON"),
        ({"stop": [object()]}, "the request cannot be sent as JSON"),
        ({"messages": "\ud800"}, "the request cannot be sent as JSON"),
        ({"timeout_s": 0}, "timeout_s is 0; give seconds above 0"),
    ],
)
def test_question_that_cannot_be_asked_is_refused(parameters: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        chat(**parameters).whole()
    with pytest.raises(InvalidRequest, match="there is no parameter 'tools'"):
        complete("a", tools=[])
    with pytest.raises(InvalidRequest, match="the model's name is empty"):
        ask_chat("", "a", {}, timeout_s=None, routing=ANYWHERE, limits=DEFAULT_LIMITS)
