"""Generated answers whose nodes are lost: another goes on behind the tokens that are there, or the client is told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import pytest
from chat_nodes import CHAT, all_asked_of, asked_of, chatting, counting, data_of, part_of, words
from fleet_fakes import Ask, FakeLink, Reply, hang
from loop_clock import LoopClock
from patience import eventually
from router_http import Http
from tidy_router import tidy

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    RequestKills,
    RunFailed,
)
from capamesh.router.policies import DEFAULT_POLICY
from capamesh.router.requests.generation import parts
from capamesh.router.requests.generation.run import MOST_RESUMES

CHATS = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]
RESUMED = ": resumed"


def nodes(http: Http, reply: Reply, count: int = 4) -> list[FakeLink]:
    """Add nodes that all follow one script, whichever is asked first."""
    return [http.node(peer, reply, models=(CHAT,)) for peer in "abcdefgh"[:count]]


def asks_of(links: Sequence[FakeLink]) -> list[Ask]:
    return [ask for link in links for ask in link.asks]


async def chat(
    http: Http, headers: Mapping[str, str] | None = None, **body: Any
) -> aiohttp.ClientResponse:
    sent = {"model": "chat", "messages": HI, **body}
    return await http.client.post(CHATS, json=sent, headers=headers)


async def streamed(http: Http, **body: Any) -> list[Any]:
    answer = await chat(http, stream=True, **body)
    assert answer.status == 200, await answer.text()
    return data_of(await answer.text())


def text_of(events: Sequence[Any]) -> str:
    found = ""
    for each in events:
        for choice in [] if isinstance(each, str) else each.get("choices", []):
            found += choice["delta"].get("content", "")
    return found


def numbers(last: int) -> str:
    return "".join(f"{number} " for number in range(1, last + 1))


async def test_another_node_goes_on_where_one_is_lost(http: Http) -> None:
    links = nodes(http, counting(9, dies_after=(4, None)))
    events = await streamed(http, stream_options={"include_usage": True})
    assert text_of(events) == numbers(9)
    assert [at for at, each in enumerate(events) if each == RESUMED] == [4]
    assert events[-1] == "data: [DONE]"
    assert events[-2]["usage"]["completion_tokens"] == 9
    roles = [each["choices"][0]["delta"].get("role") for each in events[:4]]
    assert roles == ["assistant", None, None, None]
    second = next(asked for asked in map(asked_of, asks_of(links)) if "so_far" in asked)
    assert second == {
        "messages": HI,
        "so_far": {"0": [1, 2, 3, 4]},
        "ended": [],
        "seed": 77,
    }
    (metric,) = [
        line
        for line in (await (await http.client.get("/metrics")).text()).splitlines()
        if line.startswith("capamesh_generations_resumed_total{")
    ]
    assert metric == 'capamesh_generations_resumed_total{model="chat"} 1.0'


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
        await eventually(lambda: "waiting" in http.fleet.counts, "no other node is waited for")
        clock.set_forward(21.0)
        events = await asked
        assert text_of(events) == numbers(4)
        message = events[-1]["error"]["message"]
        assert message.startswith(
            "the answer broke off after 4 tokens, and no other node could go on with it: "
        )
        assert "data: [DONE]" not in events


async def test_answers_have_a_limit_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LoopClock(monkeypatch)
    async with tidy(answer_timeout_s=20.0, timeout_s=30.0) as http:
        links = nodes(http, chatting(*words("a"), end=hang), count=2)
        asked = asyncio.create_task(streamed(http))
        await eventually(lambda: any(link.released for link in links), "no piece has come")
        clock.set_forward(21.0)
        events = await asked
        assert text_of(events) == "a"
        assert events[-1]["error"]["code"] == "deadline_exceeded"
        assert len(asks_of(links)) == 1


async def test_client_that_left_meanwhile_has_nobody_asked(http: Http) -> None:
    links = nodes(http, hang, count=2)
    asked = asyncio.create_task(chat(http, stream=True))
    while not asks_of(links):
        await asyncio.sleep(0)
    (first,) = asks_of(links)
    first.part(part_of(words("a")[0]))
    answer = await asked
    await answer.content.readline()
    answer.close()
    await first.link.cancelled.wait()
    first.link.end(is_sudden=True)
    await http.settled()
    assert len(asks_of(links)) == 1


async def test_full_node_is_no_reason_to_go_on_for_ever(http: Http) -> None:
    def reply(ask: Ask) -> None:
        if "so_far" in asked_of(ask):
            asyncio.get_running_loop().call_soon(ask.fail, Overloaded("full"))
        else:
            counting(9, dies_after=(3,))(ask)

    links = nodes(http, reply)
    events = await streamed(http)
    assert (text_of(events), events.count(RESUMED)) == (numbers(3), 1)
    assert events[-1]["error"]["message"].endswith("could go on with it: full")
    assert len(asks_of(links)) == 4


@pytest.mark.parametrize(
    "error",
    [
        RunFailed("a device fault"),
        # a node's word on what it has begun itself
        InvalidRequest("your request is wrong"),
        DeadlineExceeded("too late"),
        RequestKills("2 workers ended"),
    ],
    ids=lambda error: error.code,
)
async def test_failed_run_is_gone_on_with(http: Http, error: CapameshError) -> None:
    failing_once = [error]

    def reply(ask: Ask) -> None:
        if failing_once:
            chatting(*words("1 ", "2 "), end=failing_once.pop())(ask)
        else:
            counting(4)(ask)

    nodes(http, reply, count=2)
    assert text_of(await streamed(http)) == numbers(4)


async def test_pieces_before_one_that_is_none_are_told_once(http: Http) -> None:
    lost = [*words("1 "), [*words("2 ", first=2)[0], {"c": 5}]]
    replies = [chatting(*lost, end=hang)]

    def reply(ask: Ask) -> None:
        (replies.pop() if replies else counting(4))(ask)

    links = nodes(http, reply, count=2)
    assert text_of(await streamed(http)) == numbers(4)
    assert [asked_of(ask).get("so_far") for ask in asks_of(links) if ask.ended == "answered"] == [
        {"0": [1, 2]}
    ]


async def test_choices_that_have_ended_are_not_gone_on_with(http: Http) -> None:
    def reply(ask: Ask) -> None:
        asked = asked_of(ask)
        if "so_far" not in asked:
            lost = [*words("a", "b", choice=1, finish="stop"), *words("c", first=7)]
            chatting(*lost, end=lambda ask: ask.link.end(is_sudden=True))(ask)
            return
        assert (asked["so_far"], asked["ended"]) == ({"0": [7]}, [1])
        chatting(*words("d", finish="length"), [{"u": [5, 0, 4]}])(ask)

    nodes(http, reply, count=2)
    body = await (await chat(http, n=2)).json()
    told = [(each["message"]["content"], each["finish_reason"]) for each in body["choices"]]
    assert told == [("cd", "length"), ("ab", "stop")]
    assert body["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("finish", [None, "stop"])
async def test_answer_of_which_only_the_end_is_missing_is_not_asked_for_again(
    http: Http, finish: str | None
) -> None:
    lost = words("a", "b", finish=finish)
    links = nodes(http, chatting(*lost, end=lambda ask: ask.link.end(is_sudden=True)))
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
    sent = {"model": "chat", "prompt": ["x", "y"], "max_tokens": 9}
    answer = await http.client.post("/v1/completions", json=sent)
    body = await answer.json()
    assert [each["text"] for each in body["choices"]] == [numbers(6)] * 2


# keys


async def test_key_pays_for_the_tokens_that_the_nodes_counted_as_far_as_can_be(http: Http) -> None:
    lie = chatting(*words("a", finish="stop"), [{"u": [10**9, 10**9, 10**9]}])
    counted = counting(6, dies_after=(3, None))
    replies = iter([counted, counted, lie])

    def reply(ask: Ask) -> None:
        next(replies)(ask)

    links = nodes(http, reply)
    headers = http.bearer(requests_per_s=2.0, rows_per_s=1000.0)
    assert (await chat(http, headers, max_tokens=50)).status == 200
    ((place, used),) = http.quotas.unwritten().rows.items()
    assert (place.tenant, place.model) == ("lab", "chat")
    assert (used.requests, used.rows) == (1, 9 + 6)
    usage = (await (await chat(http, headers)).json())["usage"]
    assert usage["completion_tokens"] == 2
    assert usage["prompt_tokens"] < 5000
    other = await chat(http, http.bearer(models=("other",)))
    assert (other.status, (await other.json())["error"]["type"]) == (403, "permission_error")
    assert len(asks_of(links)) == 3


async def test_key_is_let_in_by_what_its_request_may_come_to_and_given_the_rest_back(
    http: Http,
) -> None:
    links = nodes(http, counting(2), count=1)
    over = await chat(http, http.bearer(rows_per_month=300), max_tokens=300)
    error = (await over.json())["error"]
    assert (over.status, error["type"], asks_of(links)) == (429, "rate_limit_error", [])
    slow, quick = http.bearer(rows_per_s=0.001), http.bearer(rows_per_s=1000.0)
    assert [(await chat(http, slow, max_tokens=200)).status for _ in range(2)] == [200, 429]
    for _ in range(20):  # each is let in as 212 tokens, and comes to 11
        assert (await chat(http, quick, max_tokens=200)).status == 200


async def test_client_that_leaves_pays_for_what_was_made(http: Http) -> None:
    (link,) = nodes(http, hang, count=1)
    headers = http.bearer(concurrency=1)
    asked = asyncio.create_task(chat(http, headers, stream=True))
    await link.asked.wait()
    for part in words("a", "b"):
        link.asks[0].part(part_of(part))
    answer = await asked
    await answer.content.readline()
    answer.close()
    await link.cancelled.wait()
    await eventually(lambda: bool(http.quotas.unwritten().rows), "nothing is counted")
    (used,) = http.quotas.unwritten().rows.values()
    prompt = 51 // 4  # reckoned by its bytes, for the node has counted nothing yet
    assert (used.requests, used.rows) == (1, prompt + 2)


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
            answer = await chat(at, {"X-Capamesh-Explain": "1", **headers}, messages=told)
            assert json.loads(answer.headers["X-Capamesh-Explanation"])["policy"] == policy


async def test_nodes_tell_tenants_apart_by_a_hash_alone(http: Http) -> None:
    links = nodes(http, counting(3, dies_after=(1, None)))
    for tenant in ("lab", "shop", ""):
        await (await chat(http, {"X-Capamesh-Tenant": tenant} if tenant else None)).read()
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
    await (await chat(http, {"X-Capamesh-Tenant": "lab"})).read()
    shares = [all_asked_of(ask)["share"] for ask in asks_of(links)]
    assert shares.count("") == 1
    one, other = sorted({each for each in shares if each}, key=shares.count, reverse=True)
    assert (shares.count(one), shares.count(other)) == (2, 1)
    assert not any("127.0" in f"{each}" for each in shares)


async def test_request_says_itself_nothing_of_whose_it_is(http: Http) -> None:
    links = nodes(http, chatting(*words("1", finish="stop")))
    await (await chat(http, {"X-Capamesh-Tenant": "lab"})).read()
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
