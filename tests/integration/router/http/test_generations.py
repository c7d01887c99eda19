"""OpenAI's routes for generation at a router's port, with nodes that generate as a test says, and may be lost meanwhile."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from chat_nodes import CHAT, all_asked_of, asked_of, chatting, counting, data_of, part_of, words
from fleet_fakes import Ask, FakeLink, Reply, after, failing, hang, offer
from loading_nodes import LoadingLink
from loop_clock import LoopClock
from openapi_fits import answers_of, misfits
from patience import until
from router_http import DRAWN, Http
from tidy_router import tidy

from capamesh.protocol import errors
from capamesh.protocol.tensors import Limits
from capamesh.router.policies import DEFAULT_POLICY
from capamesh.router.requests.generation import parts
from capamesh.router.requests.generation.run import MOST_RESUMES

CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"
RESUMED, DONE = ": resumed", "data: [DONE]"
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
    assert {each["choices"][0]["finish_reason"] for each in chunks[:-1]} <= {None}
    return "".join(each.get("content", "") for each in deltas)


def nodes(http: Http, reply: Reply, count: int = 4) -> list[FakeLink]:
    """Add nodes that all follow one script, whichever is asked first."""
    return [node(http, reply, peer=peer) for peer in "abcdefgh"[:count]]


def asks_of(links: Sequence[FakeLink]) -> list[Ask]:
    return [ask for link in links for ask in link.asks]


def in_turn(*replies: Reply) -> Reply:
    """Answer so in turn, whichever node is asked; all that follow as the last."""
    left = list(replies)

    def reply(ask: Ask) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(ask)

    return reply


def die(ask: Ask) -> None:
    ask.link.end(is_sudden=True)


def numbers(last: int) -> str:
    return "".join(f"{number} " for number in range(1, last + 1))


async def left_behind(http: Http, links: list[FakeLink], *texts: str, **options: Any) -> Ask:
    """Begin a stream, leave once some pieces have come, and return what the node was asked."""
    asked = asyncio.create_task(chat(http, stream=True, **options))
    while not asks_of(links):
        await asyncio.sleep(0)
    (ask,) = asks_of(links)
    for pieces in words(*texts):
        ask.part(part_of(pieces))
    answer = await asked
    await answer.content.readline()
    answer.close()
    await ask.link.cancelled.wait()
    return ask


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
        DONE,
    ]
    (ask,) = link.asks
    assert ask.call.takes_parts
    assert asked_of(ask) == {"messages": HI}
    *chunks, last = await streamed(http)
    assert last == DONE
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
    as_they_are = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "ignore_eos": True}
    as_they_are |= {"tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
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

    def more(at: int, arguments: str) -> dict[str, Any]:
        return {"index": at, "function": {"arguments": arguments}}

    assert [(each["delta"].get("tool_calls"), each["finish_reason"]) for each in deltas] == [
        ([begun(0, "x", "f", '{"a')], None),
        ([more(0, '":1}'), begun(1, f"call_{DRAWN}", "g", "")], None),
        ([more(1, "{}")], None),
        (None, "tool_calls"),
    ]
    (choice,) = (await (await chat(http)).json())["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert [each["function"] for each in choice["message"]["tool_calls"]] == [
        {"name": "f", "arguments": '{"a":1}'},
        {"name": "g", "arguments": "{}"},
    ]


async def test_choices_are_told_apart(http: Http) -> None:
    pieces = *words("a", "b", choice=1, finish="length"), *words("c", finish="stop")
    link = node(http, chatting(*pieces))
    body = await (await chat(http, n=2)).json()
    told = [(each["message"]["content"], each["finish_reason"]) for each in body["choices"]]
    assert told == [("c", "stop"), ("ab", "length")]
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
    body = await (await chat(http, TEXTS, prompt=["one", "two", [1, 2]], max_tokens=5)).json()
    told = [(each["index"], each["text"]) for each in body["choices"]]
    assert told == [*enumerate(("<one>", "<two>", "<ids>"))]
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
    node(http, failing(errors.ModelUnavailable("leaving")))
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
        node(http, failing(errors.InvalidRequest("the prompt has 9 tokens")), peer="b")

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
    node(http, failing(errors.ContextExceeded(said)))
    for path, status, body in (
        (CHATS, 400, {"messages": HI}),
        (TEXTS, 400, {"prompt": "Hi"}),
        ("/v1/responses", 400, {"input": "Hi"}),
        ("/api/chat", 413, {"messages": HI}),
        ("/v2/models/chat/generate", 413, {"text_input": "Hi"}),
    ):
        streamed = {"stream": is_streamed} if status == 400 else {}
        answer = await http.client.post(path, json={"model": "chat", **streamed, **body})
        code = answer.headers["X-Capamesh-Error"]
        assert (answer.status, code) == (status, "context_length_exceeded")
        if status == 400:
            error = (await answer.json())["error"]
            assert error.pop("message").startswith(said)
            (param,) = body
            assert error == {"type": "invalid_request_error", "param": param, "code": code}


async def test_error_within_a_stream_is_its_last_event(http: Http) -> None:
    link = node(http, chatting(*words("a", "b"), end=errors.RunFailed("the device is gone")))
    *chunks, last = await streamed(http)
    assert len([chunk for chunk in chunks if chunk != RESUMED]) == 2 * (1 + MOST_RESUMES)
    assert last["error"]["message"] == "the answer broke off after 2 parts: the device is gone"
    assert last["error"]["code"] == "run_failed"
    assert len(link.asks) == 1 + MOST_RESUMES
    answer = await chat(http)
    assert (answer.status, (await answer.json())["error"]) == (500, last["error"])


async def test_client_that_leaves_stops_the_node(http: Http) -> None:
    link = node(http, hang)
    asked = asyncio.create_task(chat(http))
    await link.asked.wait()
    asked.cancel()
    await link.cancelled.wait()
    assert link.asks.pop().ended == "withdrawn"
    link.cancelled.clear()
    assert (await left_behind(http, [link], "a")).ended == "withdrawn"


async def test_client_that_pauses_holds_a_bounded_answer_and_gets_every_piece_in_order(
    http: Http,
) -> None:
    texts = [f"{at} {'x' * 10_000} " for at in range(3000)]
    link = node(http, chatting(*words(*texts, finish="stop")))
    slow = await chat(http, stream=True)
    before = -1
    while before < len(link.released):  # sockets and both sides' buffers hold some megabytes
        before = len(link.released)
        for _ in range(100):
            await asyncio.sleep(0)
    assert (link.asks[0].ended, before < 2000) == ("", True)
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
        await until(lambda: link.asks[0].ended == "withdrawn", "the node goes on")
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
    kinds = (("prompt", 9), ("cached", 4), ("completion", 3))
    expected = {f'tokens_total{{kind="{kind}",model="chat"}} {count}.0' for kind, count in kinds}
    expected |= {
        f'{each}_seconds_count{{model="chat"}} 1.0' for each in ("first_token", "token_gap")
    }
    told = {each for each in text.splitlines() if each.startswith("capamesh_")}
    assert {each.removeprefix("capamesh_") for each in told} >= expected
    assert sum(each.startswith("capamesh_tokens_total{") for each in told) == 3


# where a node is lost


async def test_another_node_goes_on_where_one_is_lost(http: Http) -> None:
    links = nodes(http, counting(9, dies_after=(4, None)))
    events = await streamed(http, stream_options={"include_usage": True})
    assert text_of(events) == numbers(9)
    assert [at for at, each in enumerate(events) if each == RESUMED] == [4]
    assert (events[-2]["usage"]["completion_tokens"], events[-1]) == (9, DONE)
    second = next(asked for asked in map(asked_of, asks_of(links)) if "so_far" in asked)
    assert second == {"messages": HI, "so_far": {"0": [1, 2, 3, 4]}, "ended": [], "seed": 77}
    metrics = await (await http.client.get("/metrics")).text()
    assert 'capamesh_generations_resumed_total{model="chat"} 1.0' in metrics.splitlines()


async def test_whole_answer_goes_on_too_and_is_one_request(http: Http) -> None:
    nodes(http, counting(9, dies_after=(4, 2, None)))
    answer = await chat(http)
    body = await answer.json()
    assert (answer.status, answer.headers["X-Capamesh-Resumed"]) == (200, "2")
    assert body["choices"][0]["message"]["content"] == numbers(9)
    totals = http.telemetry.totals.latencies
    assert [sum(each.counts) for each in totals.values()] == [1]
    assert dict(http.telemetry.refusals()) == {}


async def test_no_more_nodes_are_asked_than_a_few(http: Http) -> None:
    links = nodes(http, counting(100, dies_after=(0, 2)), count=8)
    events = await streamed(http)
    # the first died before its first piece, which is a retry as ever
    assert text_of(events) == numbers(2 * (MOST_RESUMES + 1))
    assert events.count(RESUMED) == MOST_RESUMES
    assert events[-1]["error"]["code"] == "link_lost"
    assert len(asks_of(links)) == MOST_RESUMES + 2


async def test_client_is_told_that_no_node_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LoopClock(monkeypatch)
    async with tidy(timeout_s=20.0) as http:
        nodes(http, counting(9, dies_after=(4,)), count=1)
        asked = asyncio.create_task(streamed(http))
        await until(lambda: "waiting" in http.fleet.counts, "no other node is waited for")
        clock.set_forward(21.0)
        *pieces, last = await asked
        assert text_of(pieces) == numbers(4)
        said = "the answer broke off after 4 tokens, and no other node could go on with it: "
        assert last["error"]["message"].startswith(said)


async def test_answers_have_a_limit_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LoopClock(monkeypatch)
    async with tidy(answer_timeout_s=20.0, timeout_s=30.0) as http:
        links = nodes(http, chatting(*words("a"), end=hang), count=2)
        asked = asyncio.create_task(streamed(http))
        await until(lambda: any(link.released for link in links), "no piece has come")
        clock.set_forward(21.0)
        *pieces, last = await asked
        assert (text_of(pieces), last["error"]["code"]) == ("a", "deadline_exceeded")
        assert len(asks_of(links)) == 1


async def test_client_that_left_meanwhile_has_nobody_asked_and_pays_for_what_was_made(
    http: Http,
) -> None:
    links = nodes(http, hang, count=2)
    first = await left_behind(http, links, "a", "b", headers=http.bearer(concurrency=1))
    first.link.end(is_sudden=True)
    await http.settled()
    assert len(asks_of(links)) == 1
    await until(lambda: bool(http.quotas.unwritten().rows), "nothing is counted")
    (used,) = http.quotas.unwritten().rows.values()
    prompt = 51 // 4  # reckoned by its bytes, for the node has counted nothing yet
    assert (used.requests, used.rows) == (1, prompt + 2)


async def test_full_node_is_no_reason_to_go_on_for_ever(http: Http) -> None:
    full = failing(errors.Overloaded("full"))
    links = nodes(http, in_turn(counting(9, dies_after=(3,)), full))
    events = await streamed(http)
    assert (text_of(events[:-1]), events.count(RESUMED)) == (numbers(3), 1)
    assert events[-1]["error"]["message"].endswith("could go on with it: full")
    assert len(asks_of(links)) == 4


@pytest.mark.parametrize(
    "error",
    [
        errors.RunFailed("a device fault"),
        # a node's word on what it has begun itself
        errors.InvalidRequest("your request is wrong"),
        errors.DeadlineExceeded("too late"),
        errors.RequestKills("2 workers ended"),
    ],
    ids=lambda error: error.code,
)
async def test_failed_run_is_gone_on_with(http: Http, error: errors.CapameshError) -> None:
    nodes(http, in_turn(chatting(*words("1 ", "2 "), end=error), counting(4)), count=2)
    assert text_of(await streamed(http)) == numbers(4)


async def test_pieces_before_one_that_is_none_are_told_once(http: Http) -> None:
    lost = [*words("1 "), [*words("2 ", first=2)[0], {"c": 5}]]
    links = nodes(http, in_turn(chatting(*lost, end=hang), counting(4)), count=2)
    assert text_of(await streamed(http)) == numbers(4)
    told = [asked_of(ask).get("so_far") for ask in asks_of(links) if ask.ended == "answered"]
    assert told == [{"0": [1, 2]}]


async def test_choices_that_have_ended_are_not_gone_on_with(http: Http) -> None:
    lost = [*words("a", "b", choice=1, finish="stop"), *words("c", first=7)]
    rest = chatting(*words("d", finish="length"), [{"u": [5, 0, 4]}])
    links = nodes(http, in_turn(chatting(*lost, end=die), rest), count=2)
    body = await (await chat(http, n=2)).json()
    told = [(each["message"]["content"], each["finish_reason"]) for each in body["choices"]]
    assert told == [("cd", "length"), ("ab", "stop")]
    assert body["usage"]["completion_tokens"] == 4
    (second,) = [each for each in map(asked_of, asks_of(links)) if "so_far" in each]
    assert (second["so_far"], second["ended"]) == ({"0": [7]}, [1])


@pytest.mark.parametrize("finish", [None, "stop"])
async def test_answer_of_which_only_the_end_is_missing_is_not_asked_for_again(
    http: Http, finish: str | None
) -> None:
    lost = words("a", "b", finish=finish)
    links = nodes(http, chatting(*lost, end=die))
    body = await (await chat(http, max_tokens=2)).json()
    (choice,) = body["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("ab", finish or "length")
    assert body["usage"]["completion_tokens"] == 2
    assert len(asks_of(links)) == 1


async def test_answer_too_long_to_keep_is_not_gone_on_with(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MOST_KEPT", 3)
    links = nodes(http, counting(9, dies_after=(4, None)))
    events = await streamed(http)
    assert events[-1]["error"]["message"].startswith("the answer broke off after 4 parts: ")
    assert len(asks_of(links)) == 1


async def test_texts_go_on_each_for_itself(http: Http) -> None:
    nodes(http, counting(6, dies_after=(3, 3, None)), count=4)
    body = await (await chat(http, TEXTS, prompt=["x", "y"], max_tokens=9)).json()
    assert [each["text"] for each in body["choices"]] == [numbers(6)] * 2


# keys


async def test_key_pays_for_the_tokens_that_the_nodes_counted_as_far_as_can_be(http: Http) -> None:
    lie = chatting(*words("a", finish="stop"), [{"u": [10**9, 10**9, 10**9]}])
    counted = counting(6, dies_after=(3, None))
    links = nodes(http, in_turn(counted, counted, lie))
    headers = http.bearer(requests_per_s=2.0, rows_per_s=1000.0)
    assert (await chat(http, headers=headers, max_tokens=50)).status == 200
    ((place, used),) = http.quotas.unwritten().rows.items()
    assert (place.tenant, place.model) == ("lab", "chat")
    assert (used.requests, used.rows) == (1, 9 + 6)
    usage = (await (await chat(http, headers=headers)).json())["usage"]
    assert usage["completion_tokens"] == 2
    assert usage["prompt_tokens"] < 5000
    other = await chat(http, headers=http.bearer(models=("other",)))
    assert (other.status, (await other.json())["error"]["type"]) == (403, "permission_error")
    assert len(asks_of(links)) == 3


async def test_key_is_let_in_by_what_its_request_may_come_to_and_given_the_rest_back(
    http: Http,
) -> None:
    links = nodes(http, counting(2), count=1)
    over = await chat(http, headers=http.bearer(rows_per_month=300), max_tokens=300)
    error = (await over.json())["error"]
    assert (over.status, error["type"], asks_of(links)) == (429, "rate_limit_error", [])
    slow, quick = http.bearer(rows_per_s=0.001), http.bearer(rows_per_s=1000.0)
    assert [(await chat(http, headers=slow, max_tokens=200)).status for _ in range(2)] == [200, 429]
    for _ in range(20):  # each is let in as 212 tokens, and comes to 11
        assert (await chat(http, headers=quick, max_tokens=200)).status == 200


# the node of a chat


async def test_requests_of_one_chat_meet_at_one_node_unless_a_rule_or_header_says_other(
    http: Http,
) -> None:
    async with tidy(policy=DEFAULT_POLICY) as by_default:
        links = nodes(by_default, counting(2), count=8)
        for system in ("one", "two", "three", "four"):
            told = [{"role": "system", "content": f"{system} " * 100}, *HI]
            before = [len(link.asks) for link in links]
            for turn in range(4):
                assert (await chat(by_default, messages=told)).status == 200
                told.append({"role": "assistant", "content": "1 2"})
                told.append({"role": "user", "content": f"and {turn}?"})
            came = [len(link.asks) - had for link, had in zip(links, before, strict=True)]
            assert sorted(came) == [*[0] * 7, 4]
        assert sum(bool(link.asks) for link in links) > 1
        nodes(http, counting(2), count=2)
        for at, headers, policy in (
            (by_default, {}, "prefix"),
            (by_default, {"X-Capamesh-Affinity": "mine"}, "affinity"),
            (by_default, {"X-Capamesh-Policy": "round-robin"}, "round-robin"),
            (http, {}, "in-order"),  # by its rule
        ):
            answer = await chat(at, headers={"X-Capamesh-Explain": "1", **headers}, messages=told)
            assert json.loads(answer.headers["X-Capamesh-Explanation"])["policy"] == policy


async def test_nodes_tell_tenants_apart_by_a_hash_alone(http: Http) -> None:
    links = nodes(http, counting(3, dies_after=(1, None)))
    for tenant in ("lab", "shop", ""):
        await (await chat(http, headers={"X-Capamesh-Tenant": tenant} if tenant else None)).read()
    salts = [all_asked_of(ask)["cache_salt"] for ask in asks_of(links)]
    assert salts.count("") == 1
    lab, other = sorted({each for each in salts if each}, key=salts.count, reverse=True)
    assert (salts.count(lab), salts.count(other)) == (2, 1)  # one of them was gone on with
    assert not any(word in f"{salts}" for word in ("lab", "shop"))


async def test_nodes_tell_clients_without_a_tenant_apart_by_their_addresses(http: Http) -> None:
    links = nodes(http, counting(3))
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            url = f"http://{http.client.host}:{http.client.port}{CHATS}"
            answer = await session.post(url, json={"model": "chat", "messages": HI})
            assert answer.status == 200
    await (await chat(http, headers={"X-Capamesh-Tenant": "lab"})).read()
    shares = [all_asked_of(ask)["share"] for ask in asks_of(links)]
    assert shares.count("") == 1
    one, other = sorted({each for each in shares if each}, key=shares.count, reverse=True)
    assert (shares.count(one), shares.count(other)) == (2, 1)
    assert not any("127.0" in f"{each}" for each in shares)


async def test_request_says_itself_nothing_of_whose_it_is(http: Http) -> None:
    links = nodes(http, chatting(*words("1", finish="stop")))
    await (await chat(http, headers={"X-Capamesh-Tenant": "lab"})).read()
    (theirs,) = [all_asked_of(ask)["cache_salt"] for ask in asks_of(links)]
    claimed = {"messages": HI, "cache_salt": theirs, "share": theirs}
    forms = [json.dumps(claimed), json.dumps(claimed).replace("s", "\\u0073") + " \n"]
    for text in forms:
        given = {"name": "generation", "datatype": "BYTES", "shape": [1], "data": [text]}
        body = {"inputs": [given], "outputs": [{"name": "parts"}]}
        answer = await http.client.post("/v2/models/chat/infer", json=body)
        assert answer.status == 200, await answer.text()
    raw = [all_asked_of(ask) for ask in asks_of(links)]
    found = Counter((each["cache_salt"], each["share"]) for each in raw)
    assert [each["messages"] for each in raw] == [HI] * 3
    (share,) = {share for salt, share in found if not salt}
    assert share not in {"", theirs}
    assert found == {(theirs, ""): 1, ("", share): 2}


async def test_head_goes_before_a_slow_first_token_and_comments_break_the_silence(
    http: Http,
) -> None:
    clock = asyncio.get_running_loop().time

    def pausing(ask: Ask) -> None:
        later = asyncio.get_running_loop().call_later
        for at_s in range(4, 28, 4):
            later(at_s, lambda: ask.part(part_of([])))  # a sign of life
        later(23.0, lambda: ask.part(part_of(words("He")[0])))
        later(28.0, lambda: ask.answer(part_of(words("llo", first=2, finish="stop")[0])))

    node(http, pausing)
    began_s = clock()
    answer = await chat(http, stream=True)
    heads_s = clock() - began_s
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    assert 1.0 <= heads_s < 1.1
    text, times = b"", [heads_s]
    async for chunk in answer.content.iter_any():
        text += chunk
        times.append(clock() - began_s)
    assert 28.0 <= times[-1] < 28.1
    gaps = [after_s - before_s for before_s, after_s in itertools.pairwise(times)]
    assert max(gaps) <= 10.01
    assert text.count(b":\n\n") == len([line for line in text.split(b"\n") if line == b":"]) >= 2
    events = data_of(text.replace(b":\n\n", b"").decode())
    assert (text_of(events), events[-1]) == ("Hello", DONE)


@pytest.mark.parametrize(("delay_s", "status"), [(0.5, 500), (5.0, 200)])
async def test_error_before_the_first_token_has_a_status_if_it_comes_soon(
    http: Http, delay_s: float, status: int
) -> None:
    node(http, after(delay_s, failing(errors.RunFailed("the device is gone"))))
    answer = await chat(http, stream=True)
    assert answer.status == status
    text = await answer.text()
    if status == 200:
        (event,) = data_of(text)
        assert "the device is gone" in event["error"]["message"]
    else:
        assert "the device is gone" in json.loads(text)["error"]["message"]


async def test_answer_of_lines_has_its_head_soon_and_no_comments(http: Http) -> None:
    node(http, after(25.0, chatting(*words("Hi", finish="stop"))))
    answer = await http.client.post("/api/chat", json={"model": "chat", "messages": HI})
    assert answer.status == 200
    assert [json.loads(line)["done"] for line in (await answer.text()).splitlines()][-1] is True


@pytest.mark.parametrize("load_s", [0.5, 20.0, None])
async def test_head_goes_before_a_model_that_is_loaded_for_a_stream(
    http: Http, load_s: float | None
) -> None:
    link = LoadingLink(http.fleet, "a", CHAT, chatting(*words("Hi", finish="stop")))
    link.is_ready_at_once = False
    clock = asyncio.get_running_loop().time
    if load_s is not None:
        asyncio.get_running_loop().call_later(load_s, link.load)
    began_s = clock()
    answer = await chat(http, stream=True)
    assert answer.status == 200
    assert clock() - began_s == pytest.approx(min(1.0, load_s or 1.0), abs=0.1)
    assert ("X-Capamesh-Node" in answer.headers) == (load_s == 0.5)
    text = await answer.text()
    comments = text.count(":\n\n")
    events = data_of(text.replace(":\n\n", ""))
    if load_s is None:
        (event,) = events
        assert "longer than the request's time" in event["error"]["message"]
        assert comments >= 2
    else:
        assert (text_of(events), events[-1]) == ("Hi", DONE)
        assert comments == (1 if load_s == 20.0 else 0)


async def test_client_that_leaves_while_its_model_is_loaded_waits_no_more(http: Http) -> None:
    link = LoadingLink(http.fleet, "a", CHAT)
    link.is_ready_at_once = False
    answer = await chat(http, stream=True)
    cold = http.fleet.routing.pipeline.cold
    assert cold._count == 1
    answer.close()
    await until(lambda: cold._count == 0, "it waits no more")
    link.load()
    await http.settled()
    assert link.asks == []
