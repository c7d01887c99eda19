"""OpenAI's routes for generation at a router's port, with nodes that generate as a test says."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from chat_nodes import CHAT, asked_of, chatting, data_of, part_of, words
from fleet_fakes import Ask, FakeLink, Reply, failing, hang, offer
from openapi_fits import answers_of, misfits
from patience import eventually
from router_http import DRAWN, Http
from tidy_router import tidy

from capamesh.protocol.errors import (
    ContextExceeded,
    InvalidRequest,
    ModelUnavailable,
    RunFailed,
)
from capamesh.protocol.tensors import Limits
from capamesh.router.policies import DEFAULT_POLICY
from capamesh.router.requests.generation.run import MOST_RESUMES

CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "Hi"}]
HEAD = {"id": f"chatcmpl-{DRAWN}", "created": 1_700_000_000, "model": "chat"}
USED = {"c": 0, "u": [9, 4, 3]}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def node(http: Http, *script: Reply, peer: str = "a") -> FakeLink:
    return http.node(peer, *script, models=(CHAT,))


async def chat(
    http: Http, path: str = CHATS, headers: Mapping[str, str] | None = None, **body: Any
) -> aiohttp.ClientResponse:
    sent = {"model": "chat", **({"messages": HI} if path == CHATS else {"prompt": "Hi"}), **body}
    return await http.client.post(path, json=sent, headers=headers)


async def streamed(http: Http, path: str = CHATS, **body: Any) -> list[Any]:
    answer = await chat(http, path, stream=True, **body)
    assert (answer.status, answer.content_type) == (200, "text/event-stream"), await answer.text()
    return data_of(await answer.text())


def text_of(events: list[Any]) -> str:
    """Return the text of a chat's stream, which has a role first and the reason of the end last."""
    chunks = [each for each in events if not isinstance(each, str) and each.get("choices")]
    deltas = [each["choices"][0]["delta"] for each in chunks]
    assert [each.get("role") for each in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    finishes = [each["choices"][0]["finish_reason"] for each in chunks]
    assert set(finishes[:-1]) == {None}
    return "".join(each.get("content", "") for each in deltas)


async def test_pieces_are_events_with_the_role_first_and_the_end_last(http: Http) -> None:
    # signs of life are passed by
    link = node(http, chatting([], *words("He"), [], *words("llo", finish="stop"), [USED]))
    events = await streamed(http, stream_options={"include_usage": True})
    head = {**HEAD, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "logprobs": None, "delta": delta, "finish_reason": finish}
        return {**head, "choices": [choice], "usage": None}

    assert events == [
        chunk({"role": "assistant", "content": "He"}),
        chunk({"content": "llo"}),
        chunk({}, "stop"),
        {**head, "choices": [], "usage": USAGE},
        "data: [DONE]",
    ]
    (ask,) = link.asks
    assert ask.call.takes_parts
    assert asked_of(ask) == {"messages": HI}
    *chunks, last = await streamed(http)
    assert last == "data: [DONE]"
    assert all("usage" not in each for each in chunks)  # it was not asked for
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_answer_is_whole_without_stream(http: Http) -> None:
    node(http, chatting(*words("He", "llo", finish="stop"), [USED]))
    answer = await chat(http)
    assert answer.headers["X-Capamesh-Node"] == "a"
    body = await answer.json()
    message = {"role": "assistant", "content": "Hello", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    assert body == {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    described = answers_of("POST", CHATS, 200)["application/json"]["schema"]
    assert list(misfits(body, described)) == []
    models = await (await http.client.get("/v1/models")).json()
    assert [(each["id"], each["task"]) for each in models["data"]] == [("chat", "chat")]


async def test_all_that_is_asked_for_reaches_the_node(http: Http) -> None:
    link = node(http, chatting(*words("{}", finish="stop")))
    choice = {"type": "function", "function": {"name": "f"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    as_they_are = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "ignore_eos": True,
        "tools": [tool],
        "tool_choice": choice,
        "parallel_tool_calls": False,
    }
    await chat(
        http,
        **as_they_are,
        max_completion_tokens=7,
        max_tokens=9,
        seed=-1,
        stop="END",
        logit_bias={"007": 5},
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        chat_template_kwargs={"thinking": False},
        user="me",
        of_a_newer_version=1,
    )
    assert asked_of(link.asks[0]) == {
        **as_they_are,
        "messages": HI,
        "seed": 2**64 - 1,
        "stop": ["END"],
        "logit_bias": {"7": 5.0},
        "guide": {"schema": {}},
        "template": {"thinking": False},
        "max_tokens": 7,
    }


async def test_calls_of_tools_have_one_id_and_end_a_choice(http: Http) -> None:
    pieces = [
        [{"t": [1], "k": [{"i": 0, "id": "x", "name": "f", "arguments": '{"a'}]}],
        [{"t": [2], "k": [{"i": 0, "id": "y", "arguments": '":1}'}, {"i": 1, "name": "g"}]}],
        [{"t": [3], "k": [{"i": 1, "arguments": "{}"}], "f": "stop"}],
    ]
    node(http, chatting(*pieces))
    deltas = [each["choices"][0] for each in (await streamed(http))[:-1]]

    def begun(at: int, call_id: str, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"index": at, "id": call_id, "type": "function", "function": function}

    assert [each["delta"].get("tool_calls") for each in deltas] == [
        [begun(0, "x", "f", '{"a')],
        [
            {"index": 0, "function": {"arguments": '":1}'}},
            begun(1, f"call_{DRAWN}", "g", ""),
        ],
        [{"index": 1, "function": {"arguments": "{}"}}],
        None,
    ]
    assert [each["finish_reason"] for each in deltas] == [None, None, None, "tool_calls"]
    (choice,) = (await (await chat(http)).json())["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert [each["function"] for each in choice["message"]["tool_calls"]] == [
        {"name": "f", "arguments": '{"a":1}'},
        {"name": "g", "arguments": "{}"},
    ]


async def test_choices_are_told_apart(http: Http) -> None:
    link = node(
        http, chatting(*words("a", "b", choice=1, finish="length"), *words("c", finish="stop"))
    )
    body = await (await chat(http, n=2)).json()
    assert [(each["message"]["content"], each["finish_reason"]) for each in body["choices"]] == [
        ("c", "stop"),
        ("ab", "length"),
    ]
    assert asked_of(link.asks[0])["n"] == 2
    events = await streamed(http, n=2)
    assert [each["choices"][0]["index"] for each in events[:-1]] == [1, 1, 1, 0, 0]


async def test_log_probabilities_have_alternatives_and_bytes(http: Http) -> None:
    rows = [[[1, "ü", -0.5], [1, "ü", -0.5], [2, "\ufffd", -1.5]]]
    link = node(http, chatting([{"t": [1], "x": "ü", "p": rows, "f": "stop"}]))
    body = await (await chat(http, logprobs=True, top_logprobs=2)).json()
    token = {"token": "ü", "logprob": -0.5, "bytes": [195, 188]}
    other = {"token": "\ufffd", "logprob": -1.5, "bytes": None}
    (choice,) = body["choices"]
    assert choice["logprobs"]["content"] == [{**token, "top_logprobs": [token, other]}]
    events = await streamed(http, logprobs=True)
    assert events[0]["choices"][0]["logprobs"]["content"] == [{**token, "top_logprobs": []}]
    assert [asked_of(ask)["logprobs"] for ask in link.asks] == [2, 0]


async def test_texts_are_continued_each_by_a_call_of_its_own(http: Http) -> None:
    def reply(ask: Ask) -> None:
        prompt = asked_of(ask)["prompt"]
        name = "ids" if isinstance(prompt, list) else prompt
        chatting(*words(f"<{name}", ">", finish="stop"), [USED])(ask)

    link = node(http, reply)
    answer = await chat(http, TEXTS, prompt=["one", "two", [1, 2]], max_tokens=5)
    body = await answer.json()
    assert [(each["index"], each["text"]) for each in body["choices"]] == [
        (0, "<one>"),
        (1, "<two>"),
        (2, "<ids>"),
    ]
    assert (body["object"], body["id"]) == ("text_completion", f"cmpl-{DRAWN}")
    assert body["usage"]["prompt_tokens"] == 27
    assert [asked_of(ask)["max_tokens"] for ask in link.asks] == [5, 5, 5]
    described = answers_of("POST", TEXTS, 200)["application/json"]["schema"]
    assert list(misfits(body, described)) == []
    events = await streamed(http, TEXTS, prompt=[4, 5])
    assert [each["choices"][0]["text"] for each in events[:-1]] == ["<ids", ">"]
    assert [each["choices"][0]["finish_reason"] for each in events[:-1]] == [None, "stop"]
    assert asked_of(link.asks[-1])["max_tokens"] == 16


async def test_completion_tells_log_probabilities_in_lists(http: Http) -> None:
    row = [[1, "ab", -0.5], [1, "ab", -0.5], [2, "c", -1.0]]
    node(http, chatting([{"t": [1, 1], "x": "abab", "p": [row, row], "f": "stop"}]))
    body = await (await chat(http, TEXTS, logprobs=2)).json()
    wanted = {
        "tokens": ["ab", "ab"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"ab": -0.5, "c": -1.0}] * 2,
        "text_offset": [0, 2],
    }
    assert body["choices"][0]["logprobs"] == wanted
    events = await streamed(http, TEXTS, logprobs=2)
    assert events[0]["choices"][0]["logprobs"] == wanted


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_errors_before_the_first_piece_have_a_status(http: Http, is_streamed: bool) -> None:
    http.node("b", models=(offer(),))
    node(http, failing(ModelUnavailable("leaving")))
    for body, status, code, param in (
        ({}, 503, "model_unavailable", None),
        ({"model": "gone"}, 404, "model_not_found", None),
        ({"model": "m"}, 400, "invalid_request", "model"),
        ({"messages": []}, 400, "invalid_request", "messages"),
        ({"temperature": 3}, 400, "invalid_request", "temperature"),
    ):
        answer = await chat(http, **{"stream": is_streamed, **body})
        error = (await answer.json())["error"]
        assert (answer.status, error["code"], error["param"]) == (status, code, param)
    long = io.BytesIO(b" " * 2**20 + b"{}")
    assert (await http.client.post(CHATS, data=long)).status == 413
    assert (await http.client.post(CHATS, data=b"[")).status == 400


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_answers_and_errors_say_why_they_came_from_where_they_did(is_streamed: bool) -> None:
    async with tidy(policy=DEFAULT_POLICY) as http:
        node(http, chatting(*words("a", finish="stop")))
        node(http, failing(InvalidRequest("the prompt has 9 tokens")), peer="b")

        async def asked(node: str, **headers: str) -> Any:
            named = {f"X-Capamesh-{name}": value for name, value in headers.items()}
            return await chat(http, stream=is_streamed, headers={"X-Capamesh-Nodes": node, **named})

        for headers, policy in (({}, "prefix"), ({"Policy": "p2c"}, "p2c")):
            answer = await asked("a", Explain="1", **headers)
            why = json.loads(answer.headers["X-Capamesh-Explanation"])
            assert (why["policy"], why["chosen"]) == (policy, ["a"])
            assert [each["outcome"] for each in why["attempts"]] == ["answered"]
        assert "X-Capamesh-Explanation" not in (await asked("a")).headers
        refused = await asked("b", Explain="1")
        why = json.loads(refused.headers["X-Capamesh-Explanation"])
        assert (refused.status, why["chosen"]) == (400, ["b"])
        error = (await refused.json())["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"].startswith("the prompt has 9 tokens")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_prompt_that_is_too_long_is_told_of_as_openai_does(
    http: Http, is_streamed: bool
) -> None:
    said = "This model's maximum context length is 64 tokens; the prompt has 70"
    node(http, failing(ContextExceeded(said)))
    for path, body, param in (
        (CHATS, {"messages": HI}, "messages"),
        (TEXTS, {"prompt": "Hi"}, "prompt"),
        ("/v1/responses", {"input": "Hi"}, "input"),
    ):
        asked = {"model": "chat", "stream": is_streamed, **body}
        answer = await http.client.post(path, json=asked)
        error = (await answer.json())["error"]
        assert answer.status == 400
        assert answer.headers["X-Capamesh-Error"] == "context_length_exceeded"
        assert error.pop("message").startswith(said)
        assert error == {
            "type": "invalid_request_error",
            "param": param,
            "code": "context_length_exceeded",
        }
    for path, body in (
        ("/api/chat", {"messages": HI}),
        ("/v2/models/chat/generate", {"text_input": "Hi"}),
    ):
        answer = await http.client.post(path, json={"model": "chat", **body})
        assert (answer.status, answer.headers["X-Capamesh-Error"]) == (
            413,
            "context_length_exceeded",
        )


async def test_error_within_a_stream_is_its_last_event(http: Http) -> None:
    link = node(http, chatting(*words("a", "b"), end=RunFailed("the device is gone")))
    *chunks, last = await streamed(http)
    assert len([chunk for chunk in chunks if chunk != ": resumed"]) == 2 * (1 + MOST_RESUMES)
    assert last["error"]["message"] == "the answer broke off after 2 parts: the device is gone"
    assert last["error"]["code"] == "run_failed"
    assert len(link.asks) == 1 + MOST_RESUMES
    answer = await chat(http)
    assert (answer.status, (await answer.json())["error"]) == (500, last["error"])


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_client_that_leaves_stops_the_node(http: Http, is_streamed: bool) -> None:
    link = node(http, hang)
    asked = asyncio.create_task(chat(http, stream=is_streamed))
    await link.asked.wait()
    if is_streamed:
        link.asks[0].part(part_of(words("a")[0]))
        answer = await asked
        await answer.content.readline()
        answer.close()
    else:
        asked.cancel()
    await link.cancelled.wait()
    assert link.asks[0].ended == "withdrawn"


async def test_client_that_does_not_read_holds_a_bounded_answer(http: Http) -> None:
    long = [[{"c": 0, "t": [1], "x": "x" * 10_000}] for _ in range(3000)]
    link = node(http, chatting(*long, *words("", finish="stop")))
    slow = await chat(http, stream=True)
    await slow.content.readany()
    before = -1
    while before < len(link.released):  # sockets and both sides' buffers hold some megabytes
        before = len(link.released)
        for _ in range(100):
            await asyncio.sleep(0)
    assert not link.asks[0].ended
    assert len(link.released) < 2000
    slow.close()


async def test_client_that_pauses_gets_every_piece_in_order(http: Http) -> None:
    texts = [f"{at} {'x' * 10_000} " for at in range(2000)]
    link = node(http, chatting(*words(*texts, finish="stop")))
    slow = await chat(http, stream=True)
    before = -1
    while before < len(link.released):
        before = len(link.released)
        for _ in range(100):
            await asyncio.sleep(0)
    assert before < len(texts) - 1, "it has all of it before it reads"
    assert text_of(data_of(await slow.text())) == "".join(texts)


async def test_whole_answer_over_the_limit_is_refused_and_the_node_stopped() -> None:
    async with tidy(limits=Limits(max_json_answer_bytes=1000)) as http:
        link = node(
            http,
            chatting(*words(*["x" * 100] * 1000)),
            chatting(*words("a", "x" * 1000, finish="stop")),  # by its last piece alone
        )
        answer = await chat(http)
        assert (answer.status, (await answer.json())["error"]["code"]) == (413, "too_large")
        assert len(link.released) < 10
        await eventually(lambda: link.asks[0].ended == "withdrawn", "the node goes on")
        assert (await chat(http)).status == 413


async def test_many_at_once_are_not_mixed_up(http: Http) -> None:
    def reply(ask: Ask) -> None:
        name = asked_of(ask)["messages"][0]["content"]
        chatting(*words(*[f"{name} "] * 20, finish="stop"))(ask)

    node(http, reply)

    async def one(name: str) -> None:
        events = await streamed(http, messages=[{"role": "user", "content": name}])
        assert text_of(events) == f"{name} " * 20

    await asyncio.gather(*(one(f"request {at}") for at in range(30)))


@pytest.mark.parametrize(
    "junk",
    [
        b"[",
        b'{"c":0}',
        [{"c": 8}],
        [{"t": [-1]}],
        [{"x": 1}],
        [{"p": [[]]}],
        [{"f": "done"}],
        [{"c": 1, "x": "a"}],
        [{"c": 0, "f": "stop"}, {"c": 0, "x": "more"}],
    ],
)
async def test_pieces_that_are_none_are_the_nodes_fault(http: Http, junk: Any) -> None:
    link = node(http, chatting(junk, *words("a", finish="stop")))
    answer = await chat(http)
    assert (answer.status, (await answer.json())["error"]["code"]) == (502, "protocol_violation")
    assert len(link.asks) <= 4


async def test_answer_that_ends_before_its_choices_is_the_nodes_fault(http: Http) -> None:
    node(http, chatting(*words("a", "b")))
    *_, last = await streamed(http)
    assert last["error"]["code"] == "protocol_violation"


async def test_named_request_is_run_once_and_a_stream_takes_no_name(http: Http) -> None:
    link = node(http, chatting(*words("a", "b", finish="stop"), [USED]))
    headers = {"Idempotency-Key": "k1"}
    bodies = [await (await chat(http, headers=headers)).json() for _ in range(2)]
    assert bodies[0] == bodies[1]
    assert bodies[0]["choices"][0]["message"]["content"] == "ab"
    assert [ask.call.takes_parts for ask in link.asks] == [False]
    answer = await chat(http, headers={"Idempotency-Key": "k2"}, stream=True)
    assert (answer.status, len(link.asks)) == (400, 1)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_tokens_and_the_waits_for_them_are_counted(http: Http, is_streamed: bool) -> None:
    node(http, chatting(*words("a", "b", "c", finish="stop"), [USED]))
    answer = await chat(http, stream=is_streamed)
    await answer.read()
    await chat(http, model="gone")
    text = await (await http.client.get("/metrics")).text()
    found = [line for line in text.splitlines() if "_token" in line and line[0] != "#"]
    counted = {name: float(value) for name, _, value in (line.rpartition(" ") for line in found)}
    assert {
        name: value for name, value in counted.items() if name.startswith("capamesh_tokens")
    } == {
        'capamesh_tokens_total{kind="prompt",model="chat"}': 9,
        'capamesh_tokens_total{kind="cached",model="chat"}': 4,
        'capamesh_tokens_total{kind="completion",model="chat"}': 3,
    }
    assert counted['capamesh_first_token_seconds_count{model="chat"}'] == 1
    assert counted['capamesh_token_gap_seconds_count{model="chat"}'] == 1
