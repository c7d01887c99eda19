"""Requests with an idempotency key, as clients of each wire send them again."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from ask_by_wire import NO_ONE, OVER_ALL_WIRES, Ask, by_grpc, by_json
from fleet_fakes import FakeLink, after, echo
from grpc_call import call
from router_http import INFER, Http, bearer
from tidy_router import X

from capamesh.router.grpc.messages import CLASSES

KEY = {"Idempotency-Key": "7b1c-1"}
OTHER = {"Idempotency-Key": "7b1c-2"}
BODY = {"inputs": [X]}


@pytest.fixture
def link(http: Http) -> FakeLink:
    return http.node("A", echo)


@OVER_ALL_WIRES
async def test_request_that_is_sent_again_is_not_run_again(
    http: Http, link: FakeLink, ask: Ask
) -> None:
    replies = [await ask(http, KEY) for _ in range(3)]
    assert [each.cache for each in replies] == ["", "repeated", "repeated"]
    assert len({each.outputs for each in replies}) == 1
    assert [(await ask(http, each)).cache for each in (OTHER, NO_ONE)] == ["", ""]
    assert len(link.asks) == 3


@OVER_ALL_WIRES
async def test_request_that_is_sent_often_at_once_is_run_once(http: Http, ask: Ask) -> None:
    link = http.node("A", after(0.1, echo))
    replies = await asyncio.gather(*(ask(http, KEY) for _ in range(10)))
    assert len({each.outputs for each in replies}) == 1
    assert len(link.asks) == 1


async def test_request_is_known_again_whichever_wire_brings_it(http: Http, link: FakeLink) -> None:
    assert (await by_json(http, KEY)).cache == ""
    assert (await by_grpc(http, KEY)).cache == "repeated"
    assert len(link.asks) == 1


@OVER_ALL_WIRES
async def test_key_is_its_tenant_s_alone(http: Http, link: FakeLink, ask: Ask) -> None:
    texts = [http.key(tenant=tenant) for tenant in ("lab", "shop")]
    http.quotas.tick(0.0, http.front.keys.ring.keys)
    for expected in ("", "repeated"):
        for text in texts:
            assert (await ask(http, {**bearer(text), **KEY})).cache == expected
    assert len(link.asks) == 2
    # what was answered again is no use of the key's limits
    used = http.quotas.unwritten().rows
    assert [each.requests for each in used.values()] == [1, 1]


async def test_key_of_another_request_is_refused(http: Http, link: FakeLink) -> None:
    await http.infer(BODY, headers=KEY)
    reply = await http.infer({"inputs": [{**X, "data": [3, 4]}]}, headers=KEY)
    assert (reply.status, reply.headers["X-Capamesh-Error"]) == (409, "key_used")
    assert len(link.asks) == 1


async def test_key_of_another_request_and_of_a_stream_is_refused_over_grpc(
    http: Http, link: FakeLink
) -> None:
    await by_json(http, KEY)
    given = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    other = {**given, "contents": {"fp32_contents": [5, 6]}}
    message = CLASSES["ModelInferRequest"](model_name="m", inputs=[other]).SerializeToString()
    called = await call(http, "ModelInfer", message, KEY)
    assert called.status == grpc.StatusCode.ALREADY_EXISTS.value[0]
    (told,) = (await call(http, "ModelStreamInfer", message, KEY)).messages
    assert b"one Idempotency-Key would name them all" in told
    assert len(link.asks) == 1


@pytest.mark.parametrize(
    ("key", "said"),
    [("x" * 256, "of 256 characters"), ("\u00e4", ""), ("a\tb", "of 3 characters")],
    ids=["long", "text", "tab"],
)
async def test_key_that_is_none_is_refused(http: Http, link: FakeLink, key: str, said: str) -> None:
    reply = await http.client.post(INFER, json=BODY, headers={"Idempotency-Key": key})
    assert (reply.status, said in (await reply.json())["error"]) == (400, True)
    assert link.asks == []


async def test_client_that_was_cut_off_gets_the_answer_of_the_first_run(http: Http) -> None:
    link = http.node("A", after(0.3, echo))
    task = asyncio.create_task(http.infer(BODY, headers=KEY))
    await link.asked.wait()
    task.cancel()
    reply = await http.infer(BODY, headers=KEY)
    assert (reply.status, len(link.asks), link.withdrawn) == (200, 1, [])


async def test_heads_with_keys_push_out_no_other(http: Http, link: FakeLink) -> None:
    await http.infer(BODY)
    before = len(http.front.heads._known)
    for at in range(5):
        reply = await http.infer(BODY, headers={"Idempotency-Key": f"k{at}"})
        assert reply.status == 200
    assert len(http.front.heads._known) == before
    assert len(link.asks) == 6
