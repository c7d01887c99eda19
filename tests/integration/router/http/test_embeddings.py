"""OpenAI's routes over real sockets: embeddings of nodes that a test plays, and the list of models."""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fleet_fakes import Ask, answer_of, answering, failing, hang, offer
from loading_nodes import LoadingLink
from patience import until
from raw_http import GUARD_S, turns
from router_http import Http, serving

from capamesh.client import AsyncClient
from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.errors import InvalidRequest, ModelNotFound, Overloaded, RunFailed
from capamesh.protocol.tasks import Task
from capamesh.protocol.tensors import Datatype, Tensor, split_elements
from capamesh.router.access.keys import Verb
from capamesh.router.http import embeddings
from capamesh.router.requests import parts
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules

WORDS = replace(offer("words"), task=Task.TEXT_EMBEDDING)


def rows_of(ask: Ask) -> list[bytes]:
    tensor = ask.call.inputs[0]
    assert (tensor.datatype, len(tensor.shape)) == (Datatype.BYTES, 1)
    return split_elements(tensor.data, tensor.shape[0])


def embed(ask: Ask, *, numbers: int = 2) -> None:
    """Answer as the vector of a text how many bytes it has, and its first byte; each has two tokens."""
    rows = rows_of(ask)
    vectors = np.array([[len(row), row[0], *[0] * (numbers - 2)] for row in rows], np.float32)
    counts = Tensor.from_numpy("tokens", np.full(len(rows), 2, np.int32))
    answer = answer_of("1", Tensor.from_numpy("embedding", vectors), counts)
    asyncio.get_running_loop().call_soon(ask.answer, answer)


async def posted(http: Http, headers: dict[str, str] | None = None, **body: Any) -> Any:
    asked = {"model": "words", **body}
    response = await http.client.post("/v1/embeddings", json=asked, headers=headers or {})
    return response.status, await response.json(), response.headers


def words(http: Http, *script: Any, model: ModelOffer = WORDS, peer: str = "A") -> Any:
    return http.node(peer, *(script or (embed,)), models=(model,))


async def test_texts_become_vectors_in_their_order(http: Http) -> None:
    link = words(http)
    status, body, headers = await posted(http, input="cat")
    assert (status, headers["X-Capamesh-Node"]) == (200, "A")
    data = [{"object": "embedding", "index": 0, "embedding": [3.0, 99.0]}]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    assert body == {"object": "list", "data": data, "model": "words", "usage": usage}
    (call,) = link.calls
    assert call.outputs == ("embedding", "tokens")
    assert [(one.name, one.shape) for one in call.inputs] == [("text", (1,))]
    _, body, _ = await posted(http, input=["aaa", "b", "ü"])
    vectors = [(each["index"], each["embedding"]) for each in body["data"]]
    assert vectors == [(0, [3, 97]), (1, [1, 98]), (2, [2, 0xC3])]
    assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    _, body, _ = await posted(http, input="cat", encoding_format="base64", dimensions=2)
    assert numbers_of(body["data"][0]) == [3.0, 99.0]
    dimensions = link.calls[-1].inputs[1]
    assert (dimensions.name, dimensions.to_numpy().tolist()) == ("dimensions", [2])
    assert dimensions.datatype is Datatype.INT32


def numbers_of(entry: dict[str, Any]) -> list[float]:
    """Return a vector in base64, which is of little-endian float32."""
    found: list[float] = np.frombuffer(base64.b64decode(entry["embedding"]), "<f4").tolist()
    return found


@pytest.mark.parametrize(
    ("given", "rows"), [([7, 300], [[7, 300]]), ([[7], [8, 9]], [[7], [8, 9]])]
)
async def test_tokens_travel_as_their_numbers(http: Http, given: Any, rows: Any) -> None:
    link = words(http)
    status, _, _ = await posted(http, input=given)
    assert status == 200
    (ask,) = link.asks
    assert ask.call.inputs[0].name == "token_ids"
    assert [np.frombuffer(row, "<i4").tolist() for row in rows_of(ask)] == rows


async def test_many_texts_are_divided_by_length_over_the_nodes(http: Http) -> None:
    model = replace(WORDS, best_rows=10, max_rows=9)
    links = [words(http, model=model, peer=peer) for peer in "AB"]
    texts = ["x" * (1 + (7 * at) % 50) for at in range(50)]
    status, body, headers = await posted(http, input=texts)
    assert status == 200
    assert [entry["embedding"][0] for entry in body["data"]] == [len(text) for text in texts]
    sizes = [[len(row) for row in rows_of(ask)] for link in links for ask in link.asks]
    assert sorted(map(len, sizes)) == [5, 9, 9, 9, 9, 9]
    assert all(max(part) - min(part) <= 9 for part in sizes)
    asked = {peer for peer, link in zip("AB", links, strict=True) if link.asks}
    assert set(headers["X-Capamesh-Node"].split(",")) == asked
    assert body["usage"]["prompt_tokens"] == 100


async def test_few_parts_are_under_way_at_a_time(http: Http) -> None:
    link = words(http, hang)
    asked = asyncio.create_task(posted(http, input=["x"] * 500))
    await until(lambda: len(link.asks) == embeddings.AT_ONCE)
    await turns(100)
    assert len(link.asks) == embeddings.AT_ONCE
    asked.cancel()
    await until(lambda: len(link.withdrawn) == embeddings.AT_ONCE)


async def test_part_that_fails_ends_the_request_and_withdraws_the_others(http: Http) -> None:
    refused = failing(InvalidRequest("text 3 is not UTF-8"))
    link = words(http, hang, refused, hang)
    status, body, _ = await posted(http, input=["x"] * 40)
    assert (status, body["error"]["message"]) == (400, "text 3 is not UTF-8")
    await until(lambda: link.withdrawn and not link.waiting)


async def test_nodes_without_room_for_so_many_parts_get_fewer_at_a_time(http: Http) -> None:
    most = 0

    def narrow(ask: Ask) -> None:
        nonlocal most
        under_way = len(ask.link.waiting)
        if under_way > 3:
            asyncio.get_running_loop().call_soon(ask.fail, Overloaded("3 are enough"))
            return
        most = max(most, under_way)
        asyncio.get_running_loop().call_soon(embed, ask)

    link = words(http, narrow)
    status, body, _ = await posted(http, input=["x" * (1 + at % 9) for at in range(400)])
    assert (status, most) == (200, 3)
    assert [entry["embedding"][0] for entry in body["data"]] == [1 + at % 9 for at in range(400)]
    # each worker too many is refused, and tried again, once
    assert len(link.asks) <= 50 + 2 * embeddings.AT_ONCE


async def test_lone_part_that_nodes_have_no_room_for_is_sent_again_and_then_given_up(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PAUSE_S", 0.0)
    full = failing(Overloaded("full"))
    words(http, full, full, embed)
    assert (await posted(http, input="a"))[0] == 200
    async with serving() as other:
        link = words(other, full)
        status, body, headers = await posted(other, input="a")
        assert (status, body["error"]["code"]) == (503, "overloaded")
        assert headers["Retry-After"] == "1"
        assert len(link.asks) > parts.MOST_REFUSALS


async def test_long_answer_is_written_in_slices(http: Http) -> None:
    words(http, lambda ask: embed(ask, numbers=1000))
    _, plain, _ = await posted(http, input=["a", "bb"] * 10)
    vectors = [entry["embedding"] for entry in plain["data"]]
    assert [each[0] for each in vectors] == [1.0, 2.0] * 10
    _, packed, _ = await posted(http, input=["a", "bb"] * 10, encoding_format="base64")
    assert [*map(numbers_of, packed["data"])] == vectors


INPUTS = (
    ("", " is an empty text"),
    (["a", ""], "[1] is an empty text"),
    *((each, " is missing or empty") for each in ([], None, 7)),
    *((each, " has things of several kinds") for each in (["a", 7], [True])),
    ([7, 1.5], " has tokens that are no whole numbers"),
    ([[7], ["a"]], "[1] has tokens that are no whole numbers"),
    ([1] * 131_073, " has 131073 tokens; no model takes more"),
    ([[7], []], "[1] has no tokens"),
    ([-1], " has tokens that are not from 0 to 2147483647"),
    ([[2**31]], "[0] has tokens that are not from 0"),
    (["a"] * 2049, " has 2049 texts; at most 2048"),
)
FIELDS = (
    *(("encoding_format", each, f"encoding_format is {each!r}") for each in ("hex", ["x"])),
    *(("dimensions", each, f"dimensions is {each!r}") for each in (0, True, 1.0)),
    *(("model", each, "model is missing") for each in ("", 3)),
    ("model", "m", "model 'm' takes tensors alone"),
    ("model", "kinds", "model 'kinds' is for file-type"),
)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        *(({"input": value}, "input", f"input{said}") for value, said in INPUTS),
        ({"input": "a\ud800"}, None, "not JSON: "),
        *(({"input": "a", name: value}, name, said) for name, value, said in FIELDS),
    ],
)
async def test_field_that_is_wrong_is_named(http: Http, body: Any, param: str, said: str) -> None:
    kinds = replace(offer("kinds"), task=Task.FILE_TYPE)
    link = http.node("A", models=(WORDS, offer("m"), kinds))
    status, told, headers = await posted(http, **body)
    assert told["error"].pop("message").startswith(said)
    code = "invalid_request"
    assert told == {"error": {"type": "invalid_request_error", "param": param, "code": code}}
    assert (status, headers["X-Capamesh-Error"], link.asks) == (400, code, [])


async def test_errors_have_openais_form_whoever_raises_them(http: Http) -> None:
    words(http, failing(RunFailed("no")))
    status, body, _ = await posted(http, model="none", input="a")
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    status, body, _ = await posted(http, input="a")
    assert (status, body["error"]["type"]) == (500, "server_error")
    assert (await posted(http, {"X-Capamesh-Explain": "true"}, input="a"))[0] == 400
    for method, path, data, status, name, told in (
        ("GET", "/v1/models/nobody-hosts-it", None, 404, "type", "not_found_error"),
        ("GET", "/v1/embeddings", None, 405, "message", "/v1/embeddings takes POST, not GET"),
        ("POST", "/v1/embeddings", b"{", 400, "param", None),
        ("POST", "/v1/embeddings", io.BytesIO(b" " * (2**21 + 1)), 413, "code", "too_large"),
    ):
        answer = await http.client.request(method, path, data=data)
        assert (answer.status, (await answer.json())["error"][name]) == (status, told)


async def test_answer_that_is_not_what_was_asked_for_or_has_no_number_is_told(http: Http) -> None:
    counts = Tensor.from_numpy("tokens", np.array([1], np.int32))
    two, nan = (
        Tensor.from_numpy("embedding", np.array(rows, np.float32))
        for rows in ([[1, 1], [1, 1]], [[np.nan, 1]])
    )
    words(http, *(answering(answer_of("1", each, counts)) for each in (two, nan)))
    of_two, of_nan = (
        "a node answered 2 vectors of length 2 for 1 texts",
        "the vector of text 0 has NaN",
    )
    for said in (of_two, of_nan):
        status, body, _ = await posted(http, input="a")
        assert (status, body["error"]["message"].startswith(said)) == (500, True)
    assert (await posted(http, input="a", encoding_format="base64"))[0] == 200


# keys


async def test_key_is_charged_once_for_all_texts_of_a_request(http: Http) -> None:
    link = words(http)
    headers = http.bearer(rows_per_s=0.1, requests_per_s=2.0)
    status, _, _ = await posted(http, headers, input=["x"] * 100)
    assert status == 200
    assert len(link.calls) == 13
    ((place, used),) = http.quotas.unwritten().rows.items()
    assert (place.tenant, place.model) == ("lab", "words")
    assert used == (1, 100, 100 + 100 * 2 * 4)
    status, body, _ = await posted(http, headers, input=["x"] * 100)
    assert (status, body["error"]["type"]) == (429, "rate_limit_error")
    assert len(link.calls) == 13


async def test_key_is_held_to_its_rows_while_a_model_is_loaded(http: Http) -> None:
    link = LoadingLink(http.fleet, "A", WORDS, *[embed] * 13)
    link.is_ready_at_once = False
    headers = http.bearer(rows_per_s=0.1)
    waiting = asyncio.create_task(posted(http, headers, input=["x"] * 100))
    await asyncio.wait_for(link.wanted.wait(), GUARD_S)
    status, body, _ = await posted(http, headers, input=["x"])
    assert (status, body["error"]["type"]) == (429, "rate_limit_error")
    link.load()
    status, _, _ = await waiting
    ((_, used),) = http.quotas.unwritten().rows.items()
    assert (status, used) == (200, (1, 100, 100 + 100 * 2 * 4))


async def test_request_with_an_idempotency_key_is_not_run_again_and_charged_once(
    http: Http,
) -> None:
    link = words(http)
    texts = ["x" * (1 + at % 7) for at in range(80)]
    named = {**http.bearer(), "Idempotency-Key": "k1"}
    found = [await posted(http, named, input=texts) for _ in range(2)]
    (replica,) = http.fleet.replicas
    replica.offer = replace(replica.offer, best_rows=8)  # its node has measured anew
    found.append(await posted(http, named, input=texts))
    assert [each[2].get("X-Capamesh-Cache") for each in found] == [None, "repeated", "repeated"]
    assert found[0][1] == found[1][1] == found[2][1]
    assert found[1][2]["Age"] == "0"
    assert len(link.asks) == 3
    used = http.quotas.unwritten().rows
    assert [(each.requests, each.rows) for each in used.values()] == [(1, 80)]
    # one that has the same texts at its beginning is another request, of which nothing is run
    for other in (texts[:40], [*texts, "more"], texts[::-1]):
        status, body, _ = await posted(http, named, input=other)
        assert (status, body["error"]["code"]) == (409, "key_used")
    assert len(link.asks) == 3


async def test_part_that_no_node_has_run_is_run_when_the_request_comes_again(http: Http) -> None:
    texts = ["x" * (1 + at % 7) for at in range(80)]
    link = words(http, embed, failing(InvalidRequest("bad")), embed)
    headers = {"Idempotency-Key": "k1"}
    status, _, _ = await posted(http, headers, input=texts)
    assert status == 400
    status, body, _ = await posted(http, headers, input=texts)
    assert (status, len(body["data"])) == (200, 80)
    asked = [rows_of(ask)[0] for ask in link.asks]
    assert len(asked) == 4


async def test_kept_vectors_are_told_of() -> None:
    async with serving(rules=RoutingRules(ModelRules(cache=CacheRule(60.0)))) as http:
        link = words(http)
        found = [(await posted(http, input=["a", "b"]))[2] for _ in range(2)]
        assert [each.get("X-Capamesh-Cache") for each in found] == [None, "hit"]
        assert found[1]["Age"] == "0"
        assert len(link.asks) == 1
        _, _, told = await posted(http, {"Cache-Control": "no-cache"}, input=["a", "b"])
        assert ("X-Capamesh-Cache" in told, len(link.asks)) == (False, 2)


async def test_key_embeds_by_its_own_models_alone_and_sees_no_others(http: Http) -> None:
    http.node("A", embed, models=(WORDS, replace(offer("secret"), task=Task.TEXT_EMBEDDING)))

    async def listed(headers: dict[str, str]) -> Any:
        return await (await http.client.get("/v1/models", headers=headers)).json()

    own, reader = http.bearer(models=("words",)), http.bearer(Verb.READ)
    assert (await posted(http, own, input="a"))[0] == 200
    status, body, _ = await posted(http, own, input="a", model="secret")
    assert (status, body["error"]["type"]) == (403, "permission_error")
    seen = await listed(own)
    assert ([entry["id"] for entry in seen["data"]], "models" in seen) == (["words"], False)
    assert (await http.client.get("/v1/models/secret", headers=own)).status == 403
    assert [entry["id"] for entry in (await listed(reader))["data"]] == ["secret", "words"]
    assert (await posted(http, reader, input="a"))[0] == 403


async def test_models_are_listed_with_what_they_are_for(http: Http) -> None:
    http.node("A", models=(WORDS, replace(WORDS, version="2"), offer("m")))
    listed = await (await http.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["name"] for model in listed["models"]] == ["m", "words", "words"]
    common = {"object": "model", "created": 0, "owned_by": "capamesh"}
    assert listed["data"] == [
        {"id": "m", **common, "task": None, "versions": ["1"]},
        {"id": "words", **common, "task": "text-embedding", "versions": ["1", "2"]},
    ]
    one = await (await http.client.get("/v1/models/words")).json()
    assert one == listed["data"][1]


async def test_client_gets_arrays(http: Http) -> None:
    words(http)
    async with AsyncClient(f"http://{http.client.host}:{http.client.port}") as client:
        one = await client.embed("words", "cat")
        several = await client.embed("words", ["aaa", "b", "ü"] * 50, timeout_s=5.0)
        tokens = await client.embed("words", [[97, 300]])
        with pytest.raises(ModelNotFound):
            await client.embed("others", "cat")
        with pytest.raises(InvalidRequest, match="input is missing or empty"):
            await client.embed("words", [])
    assert one.vectors.tolist() == [[3.0, 99.0]]
    assert (one.tokens, one.model, one.nodes) == (2, "words", ("A",))
    assert several.vectors.tolist() == [[3, 97], [1, 98], [2, 0xC3]] * 50
    assert (several.tokens, several.vectors.dtype) == (300, np.float32)
    assert tokens.vectors.tolist() == [[8.0, 97.0]]
