"""Requests with an idempotency key, as clients of each wire send them again."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from ask_by_wire import NOBODY, WIRES, by_grpc
from fleet_fakes import FakeLink, after, echo
from raw_http import GUARD_S
from router_http import INFER, Http
from tidy_router import X

from capamesh.router.access.keys import ALPHABET, Key, Scope, Verb, digest_of, id_of, new_text
from capamesh.router.grpc.messages import CLASSES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

KEY = {"Idempotency-Key": "7b1c-1"}
OTHER = {"Idempotency-Key": "7b1c-2"}
BODY = {"inputs": [X]}
LAST = {"Connection": "close"}


@pytest.fixture
def link(http: Http) -> FakeLink:
    return http.node("A", echo)


@pytest.mark.parametrize("wire", WIRES)
async def test_request_that_is_sent_again_is_not_run_again(
    http: Http, link: FakeLink, wire: str
) -> None:
    ask = WIRES[wire]
    replies = [await ask(http, KEY) for _ in range(3)]
    assert [each.cache for each in replies] == ["", "repeated", "repeated"]
    assert len({each.outputs for each in replies}) == 1
    assert (await ask(http, OTHER)).cache == ""
    assert (await ask(http, NOBODY)).cache == ""
    assert len(link.asks) == 3


@pytest.mark.parametrize("wire", WIRES)
async def test_request_that_is_sent_twice_at_once_is_run_once(http: Http, wire: str) -> None:
    link = http.node("A", after(0.1, echo))
    replies = await asyncio.gather(*(WIRES[wire](http, KEY) for _ in range(10)))
    assert len({each.outputs for each in replies}) == 1
    assert len(link.asks) == 1


async def test_request_is_known_again_whichever_wire_brings_it(http: Http, link: FakeLink) -> None:
    assert (await WIRES["json"](http, KEY)).cache == ""
    assert (await by_grpc(http, KEY)).cache == "repeated"
    assert len(link.asks) == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_key_is_its_tenant_s_alone(http: Http, link: FakeLink, wire: str) -> None:
    draws = iter(ALPHABET * 20)
    texts = [new_text(lambda _: next(draws)) for _ in range(2)]
    http.front.keys.ring.take(
        [Key(id_of(text), digest_of(text), text, Scope(verbs=(Verb.INFER,))) for text in texts],
        0.0,
        0.0,
    )
    http.quotas.tick(0.0, http.front.keys.ring.keys)
    for expected in ("", "repeated"):
        for text in texts:
            sent = {"Authorization": f"Bearer {text}", **KEY}
            assert (await WIRES[wire](http, sent)).cache == expected
    assert len(link.asks) == 2
    # what was answered again is no use of the key's limits
    used = http.quotas.unwritten().rows
    assert [each.requests for each in used.values()] == [1, 1]


async def test_key_of_another_request_is_refused(http: Http, link: FakeLink) -> None:
    await http.infer(BODY, headers=KEY)
    reply = await http.infer({"inputs": [{**X, "data": [3, 4]}]}, headers=KEY)
    assert (reply.status, reply.headers["X-Capamesh-Error"]) == (409, "key_used")
    message = CLASSES["ModelInferRequest"](
        model_name="m",
        inputs=[
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 2],
                "contents": {"fp32_contents": [5, 6]},
            }
        ],
    ).SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _call(http, "ModelInfer", message)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert len(link.asks) == 1


async def _call(http: Http, method: str, message: bytes) -> bytes:
    path = f"/inference.GRPCInferenceService/{method}"
    async with grpc.aio.insecure_channel(f"{http.client.host}:{http.client.port}") as channel:
        metadata = [(name.lower(), value) for name, value in KEY.items()]
        if method == "ModelInfer":
            return bytes(await channel.unary_unary(path)(message, metadata=metadata))
        stream = channel.stream_stream(path)(metadata=metadata)
        await stream.write(message)
        return bytes(await stream.read())


async def test_stream_takes_no_key(http: Http, link: FakeLink) -> None:
    message = CLASSES["ModelInferRequest"](model_name="m").SerializeToString()
    answer = await _call(http, "ModelStreamInfer", message)
    assert b"one Idempotency-Key would name them all" in answer
    assert link.asks == []


@pytest.mark.parametrize(
    ("key", "length"), [("x" * 256, 256), ("\u00e4", 1), ("a\tb", 3)], ids=["long", "text", "tab"]
)
async def test_key_that_is_none_is_refused(
    http: Http, link: FakeLink, key: str, length: int
) -> None:
    reply = await http.client.post(INFER, json=BODY, headers={"Idempotency-Key": key, **LAST})
    text = (await reply.json())["error"]
    assert reply.status == 400
    assert f"of {length} characters" in text or length == 1
    assert link.asks == []


async def test_client_that_was_cut_off_gets_the_answer_of_the_first_run(http: Http) -> None:
    link = http.node("A", after(0.3, echo))
    task = asyncio.create_task(http.infer(BODY, headers=KEY))
    await asyncio.wait_for(link.asked.wait(), GUARD_S)
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
