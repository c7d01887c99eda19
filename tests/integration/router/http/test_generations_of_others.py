"""Generation by other routes over real sockets: OpenAI's responses, Ollama's clients, Triton's generate extension."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from chat_nodes import CHAT, asked_of, chatting, counting, data_of, words
from fleet_fakes import FakeLink, Reply, failing, offer
from openapi_fits import answers_of, misfits
from router_http import DRAWN, Http

from capamesh.protocol.errors import InvalidRequest, RunFailed

USED = {"c": 0, "u": [9, 4, 3]}
CALL = {"i": 0, "id": "x", "name": "f", "arguments": '{"a"'}


def node(http: Http, reply: Reply, peer: str = "a") -> FakeLink:
    return http.node(peer, reply, models=(CHAT,))


async def post(http: Http, path: str, **body: Any) -> aiohttp.ClientResponse:
    return await http.client.post(path, json={"model": "chat", **body})


def fits(path: str, body: Any) -> bool:
    described = answers_of("POST", path, 200)["application/json"]["schema"]
    return list(misfits(body, described)) == []


# responses


async def respond(http: Http, **body: Any) -> aiohttp.ClientResponse:
    return await post(http, "/v1/responses", **{"input": "Hi", **body})


def events_of(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for block in text.split("\n\n")[:-1]:
        kind, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        found.append(event)
    assert [each["sequence_number"] for each in found] == [*range(len(found))]
    return found


async def test_response_is_whole_and_says_where_it_is_cut(http: Http) -> None:
    link = node(http, chatting(*words("He", "llo", finish="stop"), [USED]))
    answer = await respond(http, instructions="Be kind", max_output_tokens=5, temperature=0.5)
    body = await answer.json()
    told = tuple(body[name] for name in ("status", "object", "id"))
    assert (answer.status, *told) == (200, "completed", "response", f"resp_{DRAWN}")
    text = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    message = {"type": "message", "role": "assistant", "status": "completed"}
    assert body["output"] == [{**message, "id": f"msg_{DRAWN}", "content": [text]}]
    assert body["usage"]["total_tokens"] == 12
    assert body["usage"]["input_tokens_details"] == {"cached_tokens": 4}
    assert fits("/v1/responses", body)
    messages = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}]
    asked = {"messages": messages, "temperature": 0.5, "max_tokens": 5}
    assert asked_of(link.asks[0]) == asked
    node(http, chatting(*words("a", finish="length")), "b")
    http.endpoints[0].link = None
    body = await (await respond(http, max_output_tokens=1)).json()
    reason = {"reason": "max_output_tokens"}
    assert (body["status"], body["incomplete_details"]) == ("incomplete", reason)
    events = events_of(await (await respond(http, max_output_tokens=1, stream=True)).text())
    assert events[-1]["type"] == "response.incomplete"


async def test_response_comes_in_events(http: Http) -> None:
    pieces = [
        *words("He", "llo"),
        [{"t": [3], "k": [CALL]}],
        [{"t": [4], "k": [{"i": 0, "arguments": ":1}"}], "f": "stop"}],
        [USED],
    ]
    node(http, chatting(*pieces))
    answer = await respond(http, stream=True)
    assert answer.content_type == "text/event-stream"
    events = events_of(await answer.text())
    added, text, call = "output_item.added", "output_text.delta", "function_call_arguments"
    assert [each["type"].removeprefix("response.") for each in events] == [
        *("created", "in_progress", added, "content_part.added", text, text),
        *(added, f"{call}.delta", f"{call}.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *(f"{call}.done", "output_item.done", "completed"),
    ]
    whole = events[-1]["response"]
    message, called = whole["output"]
    assert message["content"][0]["text"] == "Hello"
    assert (called["call_id"], called["name"], called["arguments"]) == ("x", "f", '{"a":1}')
    indices = [each["output_index"] for each in events if "output_index" in each]
    assert indices == [*[0] * 4, *[1] * 3, *[0] * 3, *[1] * 2]
    assert await (await respond(http)).json() == whole


async def test_items_become_messages(http: Http) -> None:
    link = node(http, chatting(*words("a", finish="stop")))
    sun = {"type": "output_text", "text": "Sun."}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "f", "arguments": ""},
        {"type": "function_call_output", "call_id": "1", "output": "sun"},
        {"type": "message", "role": "assistant", "content": [sun]},
    ]
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    form = {"type": "json_schema", "name": "s", "schema": {"type": "object"}}
    choice = {"type": "function", "name": "f"}
    text = {"format": form}
    answer = await respond(http, input=items, tools=[tool], tool_choice=choice, text=text)
    assert answer.status == 200, await answer.text()

    def call(name: str) -> dict[str, Any]:
        function = {"name": "f", "arguments": "{}" if name == "1" else ""}
        return {"id": name, "type": "function", "function": function}

    asked = asked_of(link.asks[0])
    assert asked["messages"] == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call("1"), call("2")]},
        {"role": "tool", "content": "sun", "tool_call_id": "1"},
        {"role": "assistant", "content": "Sun."},
    ]
    function = {"name": "f", "parameters": {"type": "object"}}
    assert asked["tools"] == [{"type": "function", "function": function}]
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert asked["guide"] == {"schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [{"type": "image"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, None),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
)
async def test_response_that_cannot_be_is_refused(http: Http, body: Any, param: str | None) -> None:
    node(http, counting(1))
    answer = await respond(http, **body)
    error = (await answer.json())["error"]
    assert (answer.status, error["param"]) == (400, param or "input[0].content[0].type")


async def test_response_goes_on_at_another_node(http: Http) -> None:
    reply = counting(6, dies_after=(3, None))
    for peer in "ab":
        node(http, reply, peer)
    text = await (await respond(http, stream=True)).text()
    assert ": resumed\n\n" in text
    events = events_of(text.replace(": resumed\n\n", ""))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "1 2 3 4 5 6 "


# Ollama


async def test_ollamas_chat_comes_in_lines(http: Http) -> None:
    link = node(http, chatting(*words("He", "llo", finish="stop"), [USED]))
    answer = await post(
        http,
        "/api/chat",
        model="chat:latest",
        messages=[{"role": "user", "content": "Hi"}],
        options={"num_predict": 7, "repeat_penalty": 1.5, "num_ctx": 9, "stop": ["x"]},
        format="json",
        keep_alive=0,
    )
    assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [each["message"] for each in lines] == [
        {"role": "assistant", "content": text} for text in ("He", "llo", "")
    ]
    assert [each["done"] for each in lines] == [False, False, True]
    last = lines[-1]
    assert (last["done_reason"], last["prompt_eval_count"], last["eval_count"]) == ("stop", 9, 3)
    assert last["created_at"] == "2023-11-14T22:13:20.500000+00:00"
    assert asked_of(link.asks[0]) == {
        "messages": [{"role": "user", "content": "Hi"}],
        "repetition_penalty": 1.5,
        "stop": ["x"],
        "guide": {"json": True},
        "max_tokens": 7,
    }


async def test_ollamas_chat_is_whole_and_calls_tools(http: Http) -> None:
    link = node(http, chatting([{"t": [1], "k": [{**CALL, "arguments": '{"a":1}'}], "f": "stop"}]))
    messages = [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "sun"},
    ]
    answer = await post(http, "/api/chat", messages=messages, stream=False)
    body = await answer.json()
    assert body["message"]["tool_calls"] == [{"function": {"name": "f", "arguments": {"a": 1}}}]
    assert fits("/api/chat", body)
    first, second = asked_of(link.asks[0])["messages"]
    assert first["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert second["tool_call_id"] == first["tool_calls"][0]["id"]


async def test_ollamas_generate_answers_a_message_or_goes_on_with_a_text(http: Http) -> None:
    link = node(http, chatting(*words("a", "b", finish="length")))
    asked = {"prompt": "Hi", "system": "Be kind", "stream": False}
    body = await (await post(http, "/api/generate", **asked)).json()
    assert (body["response"], body["done_reason"]) == ("ab", "length")
    assert fits("/api/generate", body)
    answer = await post(http, "/api/generate", prompt="Hi", raw=True, format={"type": "object"})
    lines = [json.loads(line) for line in (await answer.text()).splitlines()]
    assert [each["response"] for each in lines] == ["a", "b", ""]
    kind, hi = {"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}
    assert [asked_of(ask) for ask in link.asks] == [
        {"messages": [kind, hi]},
        {"prompt": "Hi", "guide": {"schema": {"type": "object"}}},
    ]


async def test_ollamas_list_has_models_for_chat_alone_and_its_errors_are_texts(http: Http) -> None:
    node(http, chatting(*words("a"), end=RunFailed("the device is gone")))
    http.node("b", models=(offer(),))
    listed = await (await http.client.get("/api/tags")).json()
    assert [each["name"] for each in listed["models"]] == ["chat"]
    assert (await (await http.client.get("/api/version")).json())["version"]
    answer = await post(http, "/api/generate", prompt="Hi")
    *_, last = (await answer.text()).splitlines()
    assert json.loads(last) == {"error": "the answer broke off after 1 part: the device is gone"}
    for path, body, status in (
        ("/api/chat", {"messages": []}, 400),
        ("/api/chat", {"messages": [{"role": "user", "content": "", "images": ["x"]}]}, 400),
        ("/api/generate", {"prompt": ""}, 400),
        ("/api/generate", {"prompt": "x", "options": {"num_predict": 0.5}}, 400),
        ("/api/generate", {"prompt": "x", "format": "xml"}, 400),
        ("/api/generate", {"prompt": "x", "model": "none"}, 404),
    ):
        answer = await post(http, path, **body)
        assert (answer.status, type((await answer.json())["error"])) == (status, str), body


# Triton


async def test_tritons_generate_goes_on_with_a_text(http: Http) -> None:
    link = node(http, chatting(*words("a", "b", finish="stop")))
    body = {
        "text_input": "Hi",
        "id": "7",
        "stop_words": ["x"],
        "parameters": {"max_tokens": 5, "temperature": 0, "exclude_input_in_output": False},
    }
    answer = await http.infer(body, path="/v2/models/chat/generate")
    head = {"model_name": "chat", "model_version": "1", "id": "7"}
    assert (answer.status, await answer.json()) == (200, {**head, "text_output": "ab"})
    path = "/v2/models/chat/versions/1/generate_stream"
    answer = await http.infer({"text_input": "Hi"}, path=path)
    assert data_of(await answer.text()) == [
        {"model_name": "chat", "model_version": "1", "text_output": text} for text in "ab"
    ]
    assert [asked_of(ask) for ask in link.asks] == [
        {"prompt": "Hi", "temperature": 0.0, "stop": ["x"], "echo": True, "max_tokens": 5},
        {"prompt": "Hi", "max_tokens": 16},
    ]
    assert link.asks[1].call.version == "1"


async def test_tritons_errors_have_its_form(http: Http) -> None:
    node(http, failing(InvalidRequest("no")))
    for name in ("generate", "generate_stream"):
        path = f"/v2/models/chat/{name}"
        for body in ({"text_input": ""}, {"text_input": "x", "parameters": 1}, {"text_input": "x"}):
            answer = await http.infer(body, path=path)
            assert (answer.status, type((await answer.json())["error"])) == (400, str)
    http.endpoints[0].link = None
    node(http, chatting(*words("a"), end=RunFailed("no")), "b")
    answer = await http.infer({"text_input": "x"}, path="/v2/models/chat/generate_stream")
    *_, last = data_of(await answer.text())
    assert (last["code"], last["parts"]) == ("run_failed", 1)
