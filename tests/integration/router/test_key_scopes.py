"""Keys for the nodes of some regions, or up to a price, over every wire: no other node gets their requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from ask_by_wire import NO_ONE, OVER_ALL_WIRES, Ask, by_json
from fleet_fakes import FakeLink, echo
from router_http import Http
from tidy_router import tidy
from ws_client import STREAM, infer, streaming

from capamesh.router.access.keys import Verb
from capamesh.router.rules.model_rules import CacheRule, ModelRules, RoutingRules

RULES = RoutingRules(ModelRules(cache=CacheRule(60.0)))
FIT: tuple[dict[str, Any], ...] = ({"regions": ("eu",)}, {"max_price": 1.5})
"""Scopes of keys for the only node there is, which is in `eu` and costs 1.5."""
UNFIT: tuple[dict[str, Any], ...] = ({"regions": ("us",)}, {"max_price": 1.4})
REFUSED = "none of its nodes may have this request"


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with tidy(rules=RULES) as http:
        yield http


@pytest.fixture
def link(http: Http) -> FakeLink:
    return http.node("A", echo)


@OVER_ALL_WIRES
async def test_request_goes_to_no_node_that_its_key_is_not_for(
    http: Http, link: FakeLink, ask: Ask
) -> None:
    for number, scope in enumerate(FIT):
        assert (await ask(http, http.bearer(**scope))).node == "A"
        assert len(link.asks) == number + 1  # what one may have is not kept for the other
    for scope in UNFIT:
        for asked in (NO_ONE, {"X-Capamesh-Max-Price": "9"}):
            with pytest.raises(AssertionError, match=REFUSED):
                await ask(http, {**http.bearer(**scope), **asked})
    with pytest.raises(AssertionError, match="the key is for us"):
        await ask(http, {**http.bearer(**UNFIT[0]), "X-Capamesh-Region": "eu"})
    assert len(link.asks) == len(FIT)


async def test_kept_answer_of_a_node_that_the_key_is_not_for_is_not_given(
    http: Http, link: FakeLink
) -> None:
    everywhere = http.bearer()
    assert [(await by_json(http, everywhere)).cache for _ in range(2)] == ["", "hit"]
    for scope in UNFIT:
        with pytest.raises(AssertionError, match=REFUSED):
            await by_json(http, http.bearer(**scope))
    assert len(link.asks) == 1


async def test_stream_and_texts_go_to_no_node_that_their_key_is_not_for(
    http: Http, link: FakeLink
) -> None:
    for scope in UNFIT:
        headers = http.bearer(**scope)
        line = f"Authorization: {headers['Authorization']}"
        async with streaming(http, STREAM, line) as client:
            client.send(infer("a"))
            assert REFUSED in str(await client.next())
        reply = await http.client.post(
            "/v2/models/m/generate", json={"x": [[1.0, 2.0]]}, headers=headers
        )
        assert (reply.status, REFUSED in await reply.text()) == (503, True)
    assert link.asks == []


async def test_explanation_is_for_the_nodes_of_the_key(http: Http, link: FakeLink) -> None:
    del link
    page = "/v1/models/m/routing"
    for scopes, chosen in ((FIT, ["A"]), (UNFIT, [])):
        for scope in scopes:
            headers = http.bearer(Verb.READ, **scope)
            told = await (await http.client.get(page, headers=headers)).json()
            assert told["chosen"] == chosen


async def test_command_is_on_no_node_that_its_key_is_not_for(http: Http, link: FakeLink) -> None:
    del link
    circuit = {"url": "/v1/nodes/A/circuit", "data": b'{"state": "automatic"}'}
    for scopes, status in ((FIT, 200), (UNFIT, 403)):
        for scope in scopes:
            headers = http.bearer(Verb.ADMIN, **scope)
            reply = await http.client.request("PUT", **circuit, headers=headers)
            assert reply.status == status
    headers = {**http.bearer(Verb.ADMIN, **UNFIT[0])}
    reply = await http.client.post("/v2/repository/models/m/unload", headers=headers)
    assert reply.status in {404, 503}, await reply.text()
    http.log.events.clear()  # what was commanded
