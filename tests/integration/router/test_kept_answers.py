"""Answers that are kept, as clients of each wire see them: whose they are, how old, and how to have none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from ask_by_wire import NO_ONE, OVER_ALL_WIRES, Ask, by_binary, by_grpc, by_json
from fleet_fakes import FakeLink, after, echo
from google.protobuf.json_format import ParseDict
from grpc_call import call
from router_http import Http
from tidy_router import tidy

from capamesh.router.grpc.messages import CLASSES
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with tidy(rules=RoutingRules(ModelRules(cache=CacheRule(60.0)))) as http:
        yield http


@pytest.fixture
def link(http: Http) -> FakeLink:
    return http.node("A", echo)


@OVER_ALL_WIRES
async def test_second_reply_says_that_it_was_kept_and_is_else_the_same(
    http: Http, link: FakeLink, ask: Ask
) -> None:
    replies = [await ask(http, NO_ONE) for _ in range(4)]
    assert [each.cache for each in replies] == ["", *["hit"] * 3]
    assert replies[0].age == ""
    assert {each.age for each in replies[1:]} == {"0"}
    assert {each.node for each in replies} == {"A"}
    assert {each.outputs for each in replies} in ({"[1.0, 2.0]"}, {"[1, 2]"})
    assert len(link.asks) == 1


async def test_wires_get_one_another_s_answers(http: Http, link: FakeLink) -> None:
    await by_json(http, NO_ONE)
    assert (await by_grpc(http, NO_ONE)).cache == "hit"
    # outputs that are named are another request
    assert (await by_binary(http, NO_ONE)).cache == ""
    assert len(link.asks) == 2


async def test_statistics_tell_kept_answers_from_runs_over_both_wires(
    http: Http, link: FakeLink
) -> None:
    await by_grpc(http, {"Cache-Control": "no-store"})  # nothing is looked up
    await asyncio.gather(*(by_grpc(http, NO_ONE) for _ in range(2)))
    await by_json(http, NO_ONE)
    response = await http.client.get("/v2/models/m/stats")
    (over_http,) = (await response.json())["model_stats"]
    asked = CLASSES["ModelStatisticsRequest"](name="m").SerializeToString()
    (told,) = (await call(http, "ModelStatistics", asked)).messages
    (over_grpc,) = CLASSES["ModelStatisticsResponse"].FromString(told).model_stats
    expected = ParseDict(over_http, CLASSES["ModelStatistics"]())
    # told by two clocks that are read one after the other, each time
    assert abs(over_grpc.last_inference - expected.last_inference) < 1000
    expected.last_inference = over_grpc.last_inference
    assert over_grpc == expected
    counted = over_http["inference_stats"]
    assert (over_http["inference_count"], over_http["execution_count"]) == (4, 2)
    assert {name: each["count"] for name, each in counted.items()} == {
        **dict.fromkeys(("success", "queue"), 4),
        **dict.fromkeys(("compute_input", "compute_infer", "compute_output"), 2),
        "fail": 0,
        "cache_hit": 2,
        "cache_miss": 1,
    }
    assert 0 < counted["cache_hit"]["ns"] < counted["success"]["ns"]
    assert len(link.asks) == 2


@OVER_ALL_WIRES
async def test_tenants_are_those_of_keys_and_get_no_other_s_answer(
    http: Http, link: FakeLink, ask: Ask
) -> None:
    keys = [http.bearer(tenant=tenant) for tenant in ("lab", "shop")]
    http.quotas.tick(0.0, http.front.keys.ring.keys)
    for expected in ("", "hit"):
        assert [(await ask(http, key)).cache for key in keys] == [expected] * 2
    assert len(link.asks) == 2


@OVER_ALL_WIRES
async def test_tenant_that_a_header_names_gets_no_other_s_answer_and_asks_may_be_run_anew(
    http: Http, link: FakeLink, ask: Ask
) -> None:
    lab, shop = {"X-Capamesh-Tenant": "lab"}, {"X-Capamesh-Tenant": "shop"}
    asked = [(await ask(http, headers)).cache for headers in (lab, shop, NO_ONE, lab)]
    assert (asked, len(link.asks)) == (["", "", "", "hit"], 3)
    words = ("no-store", "no-cache", "max-age=9")
    asked = [(await ask(http, {"Cache-Control": each})).cache for each in words]
    assert (asked, len(link.asks)) == (["", "", "hit"], 5)


async def test_explained_request_is_run(http: Http, link: FakeLink) -> None:
    for _ in range(2):
        assert (await by_json(http, {"X-Capamesh-Explain": "1"})).cache == ""
    assert len(link.asks) == 2


async def test_reply_has_the_id_of_its_own_request(http: Http, link: FakeLink) -> None:
    for request_id in ("", "", "one", "two", ""):
        await by_json(http, NO_ONE, request_id=request_id)
    assert len(link.asks) == 1


async def test_packed_reply_is_packed_anew(http: Http) -> None:
    http.node("A", echo)
    rows = [[1.0, 2.0]] * 20_000
    body = {"inputs": [{"name": "x", "shape": [20_000, 2], "datatype": "FP32", "data": rows}]}
    texts: list[str] = []
    for encoding in ("gzip", "gzip", "identity", "gzip"):
        reply = await http.infer(body, headers={"Accept-Encoding": encoding})
        assert ("Content-Encoding" in reply.headers) == (encoding == "gzip")
        texts.append(await reply.text())
    assert reply.headers["X-Capamesh-Cache"] == "hit"
    assert len(set(texts)) == 1


@OVER_ALL_WIRES
async def test_hundred_equal_requests_at_once_run_once(http: Http, ask: Ask) -> None:
    link = http.node("A", after(0.2, echo))
    replies = await asyncio.gather(*(ask(http, NO_ONE) for _ in range(100)))
    assert len({each.outputs for each in replies}) == 1
    assert len(link.asks) == 1
