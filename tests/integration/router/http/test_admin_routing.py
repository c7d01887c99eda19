"""The pages on routing over HTTP: who is told why, and who may say what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fleet_fakes import failing, offer
from router_http import INFER, Http, bearer
from tidy_router import tidy

from capamesh.protocol.errors import RunFailed
from capamesh.protocol.fleet import Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.http.admin_routing import MAX_BODY_BYTES

KEY = bearer("secret")
ALPHA, OTHER = "12D3KooWalpha", "12D3KooWother"
OPEN = {"state": "forced_open"}


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with tidy(policy="least-request") as http:
        yield http
        assert set(http.log.events) <= {"circuit_held", "node_forgotten"}
        http.log.events.clear()


async def explain(http: Http, path: str = "m/routing", **headers: str) -> tuple[int, Any]:
    named = {f"X-Capamesh-{name.replace('_', '-')}": value for name, value in headers.items()}
    response = await http.client.get(f"/v1/models/{path}", headers=named)
    return response.status, await response.json()


async def explained(http: Http, path: str = "m/routing", **headers: str) -> Any:
    status, found = await explain(http, path, **headers)
    assert status == 200, found
    return found


async def hold(
    http: Http, peer: str, body: object = OPEN, headers: dict[str, str] = KEY
) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = f"/v1/nodes/{peer}/circuit"
    response = await http.client.request("PUT", path, data=data, headers=headers)
    assert response.content_type == "application/json"
    return response.status, await response.json()


async def test_decision_is_explained_replica_by_replica_and_no_node_is_asked(http: Http) -> None:
    links = [http.node(peer) for peer in (ALPHA, OTHER)]
    busy, idle = http.endpoints
    (replica,) = http.view.replicas_at(busy)
    replica.rif = busy.rif = 2
    replica.reported(LoadReport(3, 0, 8, 900, 1100, 0, 2500), http.fleet.clock())
    busy.network.rtt_s = 0.0015
    found = await explained(http)
    assert (found["model"], found["version"], found["policy"]) == ("m", "1", "least-request")
    assert (found["chosen"], found["replica_count"]) == ([OTHER], 2)
    first, second = found["replicas"]
    assert (first["peer_id"], first["is_chosen"], first["refusal"]) == (OTHER, True, "")
    assert first["report_age_us"] is None
    assert second.pop("report_age_us") >= 0
    load = {"requests_in_flight": 2, "node_in_flight": 3, "node_limit": 8}
    times = {"latency_us": 2500, "rtt_us": 1500}
    place = {"peer_id": ALPHA, "address": f"{ALPHA.lower()}:1", "region": "eu", "name": ""}
    state = {"is_chosen": False, "state": "closed", "share": 1.0, "refusal": ""}
    assert second == load | times | place | state | {"price_per_million": 1.5}
    assert [link.calls for link in links] == [[], []]
    assert (idle.rif, busy.rif) == (0, 2)
    replica.rif = busy.rif = 0
    for number in range(38):
        http.node(f"peer-{number}")
    found = await explained(http)
    assert len(found["replicas"]) == found["replica_count"] == 40


async def test_explanation_counts_what_a_request_may_ask_for(http: Http) -> None:
    for peer in (ALPHA, OTHER):
        http.node(peer)
    found = await explained(http, Nodes=ALPHA, Policy="p2c")
    assert (found["policy"], found["chosen"]) == ("p2c", [ALPHA])
    refusals = {each["peer_id"]: each["refusal"] for each in found["replicas"]}
    assert refusals == {ALPHA: "", OTHER: "not one of the nodes that the request names"}
    assert (await explained(http, Affinity="session 7"))["policy"] == "affinity"
    found = await explained(http, Max_Price="1")
    assert found["chosen"] == []
    assert found["replicas"][0]["refusal"] == "price 1.5 is over the cap 1.0"


async def test_explanation_of_admission_counts_tenant_class_and_deadline(http: Http) -> None:
    link = http.node(ALPHA)
    idle = {"is_admitted": True, "level": 0.0, "tenant": "", "class": "online"}
    assert (await explained(http))["admission"] == idle
    (replica,) = http.fleet.replicas
    now_s = http.fleet.clock()
    replica.reported(LoadReport(9, 8, 10, 1_000_000, 500_000), now_s)
    controller = http.fleet.balancer.served(ModelName("m"), ModelVersion("1")).admission
    permits = [controller.enter(tenant, now_s) for tenant in ["hog"] * 9 + ["other"]]
    replica.rif += len(permits)
    hog = await explained(http, "m/routing?tenant=hog")
    assert (hog["chosen"], hog["replicas"][0]["is_chosen"]) == ([], False)
    admission = hog["admission"]
    assert (admission["is_admitted"], admission["tenant"]) == (False, "hog")
    assert (admission["code"], admission["status"]) == ("too_many_requests", 429)
    assert "9 requests of tenant 'hog' are under way" in admission["error"]
    assert admission["retry_after_s"] > 0
    assert admission["level"] == 1.0
    same = await explained(http, Tenant="hog")
    assert same["admission"]["error"] == admission["error"]  # no place was booked for the first
    other = await explained(http, "m/routing?tenant=other&priority=1")
    assert (other["admission"]["is_admitted"], other["admission"]["class"]) == (True, "urgent")
    assert other["chosen"] == [ALPHA]
    low = (await explained(http, "m/routing?priority=200"))["admission"]
    assert (low["is_admitted"], low["class"]) == (False, "low")
    late = await explained(http, "m/routing?timeout=600000")
    assert "it would wait" in late["admission"]["error"]
    assert set(controller.refusals.values()) == {0}
    assert link.asks == []
    replica.rif = 0
    for permit in permits:
        permit.release(now_s)


async def test_version_can_be_asked_for(http: Http) -> None:
    http.node(ALPHA, models=(offer(version="1"), offer(version="2")))
    assert (await explained(http))["version"] == "2"
    assert (await explained(http, "m/routing?version=1&tenant=acme"))["version"] == "1"
    for path, said in (
        (
            "m/routing?version=3",
            "Request for unknown model: model 'm' has no version '3'; its versions: 1, 2",
        ),
        ("x/routing", "Request for unknown model: no node hosts model 'x'; hosted models: m"),
    ):
        assert await explain(http, path) == (404, {"error": said, "code": "model_not_found"})


@pytest.mark.parametrize(
    ("path", "headers", "error"),
    [
        (
            "m/routing?tenat=x",
            {},
            "'tenat' is unknown; there are version, tenant, priority, timeout",
        ),
        ("m/routing?tenant=" + 2000 * "x", {}, "tenant has 2000 characters"),
        ("m/routing?priority=256", {}, "parameter priority is 256: 1 (the highest) to 255"),
        ("m/routing?priority=-1", {}, "parameter priority is '-1': "),
        ("m/routing?timeout=0.5", {}, "parameter timeout is '0.5': whole microseconds"),
        ("m/routing?timeout=" + 20 * "9", {}, "whole microseconds"),
        ("m/routing", {"Policy": "draw"}, "the policies are affinity, cheapest"),
        ("m/routing", {"Max_Price": "-1"}, "a number from 0 is expected"),
    ],
)
async def test_question_that_is_none_is_refused(
    http: Http, path: str, headers: dict[str, str], error: str
) -> None:
    http.node(ALPHA)
    status, found = await explain(http, path, **headers)
    assert (status, error in found["error"]) == (400, True), found


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}]
)
async def test_hold_without_the_key_is_refused_and_the_answer_says_where_the_key_is(
    http: Http, headers: dict[str, str]
) -> None:
    http.node(ALPHA)
    for peer in (ALPHA, "nobody"):  # nor does it tell who is there
        status, found = await hold(http, peer, headers=headers)
        assert status == 401
        assert "operator.key in the router's data folder" in found["error"]
        assert "secret" not in found["error"]
    assert http.endpoints[0].health.may_send(http.fleet.clock())
    assert http.log.events == []


async def test_held_node_gets_nothing_until_it_is_let_go_of(http: Http) -> None:
    for peer in (ALPHA, OTHER):
        http.node(peer)
    woken: list[str] = []
    http.fleet.balancer.links.add("waiter", lambda: woken.append("woken"))
    held = {"model": "", "version": "", "state": "forced_open"}
    told = {"peer_id": ALPHA, "name": "", **held, "overrides": [held]}
    assert await hold(http, ALPHA) == (200, told)
    assert woken == ["woken"]  # who waits for a link
    for _ in range(4):
        assert (await explained(http))["chosen"] == [OTHER]
    await hold(http, OTHER)
    assert (await explained(http))["chosen"] == []
    status, found = await hold(http, ALPHA, {"state": "automatic"})
    assert (status, found["state"], found["overrides"]) == (200, "automatic", [])
    found = await explained(http)
    assert (found["chosen"], found["replicas"][0]["state"]) == ([ALPHA], "closed")
    assert http.log.events == ["circuit_held"] * 3


async def test_one_model_or_version_of_a_node_can_be_held(http: Http) -> None:
    http.node(ALPHA, models=(offer(version="1"), offer(version="2"), offer("n")))
    await hold(http, ALPHA, {**OPEN, "model": "m", "version": "2"})
    states = {
        f"{replica.offer.name}/{replica.offer.version}": replica.health.state(http.fleet.clock())
        for replica in http.fleet.replicas
    }
    assert states == {"m/1": "closed", "m/2": "forced_open", "n/1": "closed"}
    assert http.endpoints[0].health.is_full
    assert (await explained(http, "n/routing"))["chosen"] == [ALPHA]
    assert (await explained(http, "m/routing?version=2"))["chosen"] == []
    found = await explained(http)
    assert (found["version"], found["chosen"]) == ("1", [ALPHA])


async def test_end_of_a_peer_id_is_enough_when_it_is_one_node_s(http: Http) -> None:
    for peer in (ALPHA, "12D3KooWbeta-alpha"):
        http.node(peer)
    assert (await hold(http, "Walpha"))[1]["peer_id"] == ALPHA
    status, found = await hold(http, "alpha")
    said = f"'alpha' may mean 2 nodes: {ALPHA}, 12D3KooWbeta-alpha; give the whole peer id of one"
    assert (status, found["error"]) == (400, said)
    assert [(await hold(http, each))[0] for each in ("pha", "12D3")] == [404, 400]


async def test_node_that_is_away_can_be_let_go_of(http: Http) -> None:
    http.node(ALPHA)
    await hold(http, ALPHA, {**OPEN, "model": "m"})
    http.view.apply([Left(PeerId(ALPHA), LeftReason.EXPIRED)])
    status, found = await hold(http, ALPHA, {"state": "automatic", "model": "m"})
    assert (status, found["overrides"]) == (200, [])
    assert (await hold(http, ALPHA, {"state": "automatic"}))[0] == 404


async def test_unknown_node_or_model_is_not_found_and_those_there_are_named(http: Http) -> None:
    http.node(ALPHA)
    status, found = await hold(http, "nobody")
    assert status == 404
    assert found["error"].startswith("no node is named 'nobody', and no peer id is, begins")
    assert found["error"].endswith(f"the fleet's nodes: {ALPHA}")
    said = f"node {ALPHA} has no model 'x'; it has m/1"
    told = {"error": said, "code": "model_not_found"}
    assert await hold(http, ALPHA, {**OPEN, "model": "x"}) == (404, told)
    assert (await hold(http, ALPHA, {**OPEN, "model": "m", "version": "2"}))[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"state": "open"}, 400, "'open' is unknown; there are forced_open, forced_closed"),
        ({}, 400, "the state '' is unknown"),
        ({"state": None}, 400, "a text is expected"),
        ({**OPEN, "modle": "m"}, 400, "the key 'modle' is unknown"),
        ({**OPEN, "version": "1"}, 400, "of which model?"),
        (b"", 400, "not JSON"),
        (b"[]", 400, "must be an object"),
        (bytes(MAX_BODY_BYTES + 1), 413, ""),
    ],
)
async def test_command_that_is_none_is_refused_and_changes_nothing(
    http: Http, body: object, status: int, error: str
) -> None:
    http.node(ALPHA)
    told, found = await hold(http, ALPHA, body)
    assert (told, error in found["error"]) == (status, True), found
    assert http.endpoints[0].health.is_full
    assert http.log.events == []


async def test_command_that_does_not_arrive_in_time_is_a_408_and_changes_nothing() -> None:
    async with tidy(arrival_s=0.05) as http:
        http.node(ALPHA)

        async def beginning() -> AsyncIterator[bytes]:
            yield b'{"state": '
            await asyncio.Event().wait()

        path = f"/v1/nodes/{ALPHA}/circuit"
        response = await http.client.request("PUT", path, data=beginning(), headers=KEY)
        assert response.status == 408
        assert http.endpoints[0].health.is_full


async def test_requests_that_failed_are_shown_with_the_nodes_that_were_asked(http: Http) -> None:
    http.node("A", failing(RunFailed("no memory")))
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    assert (await http.client.post(INFER, json=body)).status == 500
    reply = await http.client.get("/v1/requests")
    assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")
    (kind,) = (await reply.json())["kinds"]
    (row,) = kind.pop("newest")
    told = {"model": "m", "code": "run_failed", "count": 1, "error": "no memory"}
    assert kind == {**told, "last_at": kind["last_at"]}
    assert (row["model"], row["took_s"] > 0, row["began_at"] > 0) == ("m", True, True)
    (attempt,) = row["attempts"]
    assert (attempt["peer_id"], attempt["address"]) == ("A", "a:1")
    assert attempt["outcome"] == "run_failed: no memory"
    assert 0 <= attempt["after_s"] < attempt["took_s"] <= row["took_s"]
    assert attempt.keys() >= {"queue_s", "run_s"}


async def test_lost_node_is_listed_and_forgotten_by_the_operator_alone(http: Http) -> None:
    http.node(OTHER)
    lost = http.parts.lost
    lost.lost(
        PeerId(ALPHA), "gpu-1", {(ModelName("m"), ModelVersion("1")): 2}, now_s=0.0, wall_ms=0
    )
    lost.lost(PeerId("12D3KooWgamma"), "gpu-1", {}, now_s=0.0, wall_ms=1)
    page = await (await http.client.get("/v1/nodes")).json()
    models = [{"name": "m", "version": "1", "nodes_before": 2}]
    row = {"peer_id": ALPHA, "name": "gpu-1", "invite": "", "models": models}
    assert page["lost"][1] == {**row, "lost_at": "1970-01-01T00:00:00+00:00"}

    async def forget(node: str, headers: dict[str, str] = KEY) -> tuple[int, Any]:
        response = await http.client.request("DELETE", f"/v1/nodes/{node}", headers=headers)
        return response.status, await response.json()

    assert (await forget(ALPHA, {}))[0] == 401
    assert (await forget("gpu-1"))[0] == 400  # two are called so
    status, found = await forget(OTHER)
    assert (status, "is in the fleet" in found["error"]) == (400, True)
    assert (await forget("%1B%5B2J"))[0] == 404
    assert await forget("Walpha") == (200, {"peer_id": ALPHA, "name": "gpu-1"})
    assert await forget("gpu-1") == (200, {"peer_id": "12D3KooWgamma", "name": "gpu-1"})
    assert (await (await http.client.get("/v1/nodes")).json())["lost"] == []
