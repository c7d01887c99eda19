"""The pages on routing over HTTP: who is told why, and who may say what."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from fleet_fakes import FakeLink, NullLog, advert, linked, offer
from origins import ANYWHERE

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.errors import LinkLost
from capamesh.protocol.fleet import Joined, Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.protocol.tensors import Limits
from capamesh.router.access.operator_key import OperatorKey
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.overrides import Overrides
from capamesh.router.fleet.view import FleetView
from capamesh.router.http.admin_routing import MAX_BODY_BYTES, RoutingApi
from capamesh.router.http.application import make_application
from capamesh.router.http.open_requests import OpenRequests
from capamesh.router.policies import make_policy
from capamesh.router.requests.routing import Routing
from capamesh.router.rules.model_rules import ModelRules, RoutingRules
from capamesh.router.telemetry.ended import EndedRequests
from capamesh.router.telemetry.tracing import AttemptTimes, RequestTimes

pytestmark = pytest.mark.pure

KEY = {"Authorization": "Bearer secret"}
ALPHA, OTHER = "12D3KooWalpha", "12D3KooWother"


class Served:
    """The pages, and the fleet behind them."""

    def __init__(
        self, client: TestClient[Any, Any], view: FleetView, routing: Routing, log: NullLog
    ) -> None:
        self.client = client
        self.routing = routing
        self.view = view
        self.log = log
        self.links: dict[str, FakeLink] = {}

    def node(self, peer: str, *, models: tuple[ModelOffer, ...] = (offer(),)) -> Endpoint:
        """Add a node with one address and an idle link."""
        self.view.apply([Joined(advert(peer, f"{peer}:1", models=models))])
        (endpoint,) = self.view.endpoints_of(PeerId(peer))
        self.links[peer] = linked(endpoint)
        return endpoint

    async def explain(self, path: str = "m/routing", **headers: str) -> tuple[int, dict[str, Any]]:
        named = {f"X-Capamesh-{name.replace('_', '-')}": value for name, value in headers.items()}
        response = await self.client.get(f"/v1/models/{path}", headers=named)
        return response.status, await response.json()

    async def hold(
        self, peer: str, body: object, headers: dict[str, str] = KEY
    ) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await self.client.put(f"/v1/nodes/{peer}/circuit", data=data, headers=headers)
        assert response.content_type == "application/json"
        return response.status, await response.json()


ENDED = EndedRequests(clock=lambda: 50.0, wall_clock=lambda: 1_000.0)


@asynccontextmanager
async def serving(
    policy: str = "least-request", *, arrival_s: float = 30.0
) -> AsyncIterator[Served]:
    view = FleetView(on_new=lambda _: None, on_gone=lambda _: None)
    log, rng = NullLog(), random.Random(1)
    balancer = Balancer(
        view,
        make_policy=make_policy,
        rng=rng,
        rules=RoutingRules(ModelRules(policy=policy)),
    )
    routing = Routing(
        view,
        balancer,
        None,  # type: ignore[arg-type]  # nothing is sent
        RoutingRules(),
        rng=rng,
        clock=time.monotonic,
        timers=asyncio.get_running_loop(),
    )
    page = RoutingApi(
        view,
        routing,
        Overrides(),
        OperatorKey("secret"),
        log,  # type: ignore[arg-type]
        arrival_s=arrival_s,
        timeout_s=30.0,
        clock=time.monotonic,
        ended=ENDED,
    )
    application = make_application(
        page,
        limits=Limits(),
        log=log,  # type: ignore[arg-type]
        requests=OpenRequests(),
        origin_check=ANYWHERE,
    )
    async with TestClient(TestServer(application)) as client:
        yield Served(client, view, routing, log)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def test_decision_is_explained_replica_by_replica_and_no_node_is_asked(
    served: Served,
) -> None:
    busy, idle = served.node(ALPHA), served.node(OTHER)
    (replica,) = served.view.replicas_at(busy)
    replica.rif = busy.rif = 2
    replica.reported(LoadReport(3, 0, 8, 900, 1100, 0, 2500), time.monotonic())
    busy.network.rtt_s = 0.0015
    status, found = await served.explain()
    assert (status, found["model"], found["version"]) == (200, "m", "1")
    assert (found["policy"], found["chosen"], found["replica_count"]) == (
        "least-request",
        [OTHER],
        2,
    )
    first, second = found["replicas"]
    assert (first["peer_id"], first["is_chosen"], first["refusal"]) == (OTHER, True, "")
    assert first["report_age_us"] is None
    assert second.pop("report_age_us") >= 0
    assert second == {
        "name": "",
        "peer_id": ALPHA,
        "address": f"{ALPHA}:1",
        "is_chosen": False,
        "requests_in_flight": 2,
        "node_in_flight": 3,
        "node_limit": 8,
        "latency_us": 2500,
        "rtt_us": 1500,
        "price_per_million": 1.5,
        "region": "eu",
        "state": "closed",
        "share": 1.0,
        "refusal": "",
    }
    assert [link.calls for link in served.links.values()] == [[], []]
    assert (idle.rif, busy.rif) == (0, 2)


async def test_all_replicas_are_shown_however_many(served: Served) -> None:
    for number in range(40):
        served.node(f"peer-{number}")
    _, found = await served.explain()
    assert len(found["replicas"]) == found["replica_count"] == 40


async def test_explanation_counts_what_a_request_may_ask_for(served: Served) -> None:
    served.node(ALPHA)
    served.node(OTHER)
    _, found = await served.explain(Nodes=ALPHA, Policy="p2c")
    assert (found["policy"], found["chosen"]) == ("p2c", [ALPHA])
    refusals = {each["peer_id"]: each["refusal"] for each in found["replicas"]}
    assert refusals == {ALPHA: "", OTHER: "not one of the nodes that the request names"}
    _, found = await served.explain(Affinity="session 7")
    assert found["policy"] == "affinity"


async def test_explanation_shows_all_reasons_when_no_replica_is_eligible(served: Served) -> None:
    served.node(ALPHA)
    status, found = await served.explain(Max_Price="1")
    assert (status, found["chosen"]) == (200, [])
    assert found["replicas"][0]["refusal"] == "price 1.5 is over the cap 1.0"


async def test_explanation_of_admission_counts_tenant_class_and_deadline(
    served: Served,
) -> None:
    served.node(ALPHA)
    _, found = await served.explain()
    assert found["admission"] == {
        "is_admitted": True,
        "level": 0.0,
        "tenant": "",
        "class": "online",
    }
    (replica,) = served.view.replicas_at(*served.view.endpoints_of(PeerId(ALPHA)))
    now_s = time.monotonic() + 1.0
    served.routing.clock = lambda: now_s
    replica.reported(LoadReport(9, 8, 10, 1_000_000, 500_000), now_s)
    controller = served.routing._balancer.served(ModelName("m"), ModelVersion("1")).admission
    for tenant in ["hog"] * 9 + ["other"]:
        controller.enter(tenant, now_s)
        replica.rif += 1
    _, hog = await served.explain("m/routing?tenant=hog")
    assert (hog["chosen"], hog["replicas"][0]["is_chosen"]) == ([], False)
    admission = hog["admission"]
    assert (admission["is_admitted"], admission["tenant"]) == (False, "hog")
    assert (admission["code"], admission["status"]) == ("too_many_requests", 429)
    assert "9 requests of tenant 'hog' are under way" in admission["error"]
    assert admission["retry_after_s"] > 0
    assert admission["level"] == 1.0
    _, same = await served.explain(Tenant="hog")
    assert same["admission"]["error"] == admission["error"]  # no place was booked for the first
    _, other = await served.explain("m/routing?tenant=other&priority=1")
    assert (other["admission"]["is_admitted"], other["admission"]["class"]) == (True, "urgent")
    assert other["chosen"] == [ALPHA]
    _, low = await served.explain("m/routing?priority=200")
    assert (low["admission"]["is_admitted"], low["admission"]["class"]) == (False, "low")
    _, late = await served.explain("m/routing?timeout=600000")
    assert "it would wait" in late["admission"]["error"]
    assert set(controller.refusals.values()) == {0}
    assert served.links[ALPHA].asks == []


async def test_version_can_be_asked_for(served: Served) -> None:
    served.node(ALPHA, models=(offer(version="1"), offer(version="2")))
    assert (await served.explain())[1]["version"] == "2"
    status, found = await served.explain("m/routing?version=1&tenant=acme")
    assert (status, found["version"]) == (200, "1")
    status, found = await served.explain("m/routing?version=3")
    assert status == 404
    assert "no version '3'; its versions: 1, 2" in found["error"]


async def test_unknown_model_names_those_there_are(served: Served) -> None:
    served.node(ALPHA)
    assert await served.explain("x/routing") == (
        404,
        {"error": "no node hosts model 'x'; hosted models: m", "code": "model_not_found"},
    )


@pytest.mark.parametrize(
    ("path", "headers", "error"),
    [
        (
            "m/routing?tenat=x",
            {},
            "the query's 'tenat' is unknown; there are version, tenant, priority, timeout",
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
    served: Served, path: str, headers: dict[str, str], error: str
) -> None:
    served.node(ALPHA)
    status, found = await served.explain(path, **headers)
    assert status == 400
    assert error in found["error"]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}],
)
async def test_hold_without_the_key_is_refused_and_the_answer_says_where_the_key_is(
    served: Served, headers: dict[str, str]
) -> None:
    endpoint = served.node(ALPHA)
    for peer in (ALPHA, "nobody"):  # nor does it tell who is there
        response = await served.client.put(
            f"/v1/nodes/{peer}/circuit", data=b'{"state": "forced_open"}', headers=headers
        )
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        message = (await response.json())["error"]
        assert "operator.key in the router's data folder" in message
        assert "secret" not in message
    assert endpoint.health.may_send(time.monotonic())
    assert served.log.events == []


async def test_held_node_gets_nothing_until_it_is_let_go_of(served: Served) -> None:
    served.node(ALPHA)
    served.node(OTHER)
    held = {"model": "", "version": "", "state": "forced_open"}
    assert await served.hold(ALPHA, {"state": "forced_open"}) == (
        200,
        {"peer_id": ALPHA, "name": "", **held, "overrides": [held]},
    )
    for _ in range(4):
        assert (await served.explain())[1]["chosen"] == [OTHER]
    await served.hold(OTHER, {"state": "forced_open"})
    assert (await served.explain())[1]["chosen"] == []
    status, found = await served.hold(ALPHA, {"state": "automatic"})
    assert (status, found["state"], found["overrides"]) == (200, "automatic", [])
    _, found = await served.explain()
    assert (found["chosen"], found["replicas"][0]["state"]) == ([ALPHA], "closed")
    assert served.log.events == ["circuit_held"] * 3


async def test_one_model_or_version_of_a_node_can_be_held(served: Served) -> None:
    endpoint = served.node(ALPHA, models=(offer(version="1"), offer(version="2"), offer("n")))
    await served.hold(ALPHA, {"state": "forced_open", "model": "m", "version": "2"})
    states = {
        f"{replica.offer.name}/{replica.offer.version}": str(replica.health.state(time.monotonic()))
        for replica in served.view.replicas_at(endpoint)
    }
    assert states == {"m/1": "closed", "m/2": "forced_open", "n/1": "closed"}
    assert endpoint.health.is_full
    assert (await served.explain("n/routing"))[1]["chosen"] == [ALPHA]
    assert (await served.explain("m/routing?version=2"))[1]["chosen"] == []
    _, found = await served.explain()
    assert (found["version"], found["chosen"]) == ("1", [ALPHA])


async def test_request_that_waits_for_a_link_is_woken_when_a_hold_changes(served: Served) -> None:
    served.node(ALPHA)
    woken: list[str] = []
    served.routing._balancer.links.add("waiter", lambda: woken.append("woken"))
    assert (await served.hold(ALPHA, {"state": "forced_closed"}))[0] == 200
    assert woken == ["woken"]


async def test_end_of_a_peer_id_is_enough_when_it_is_one_node_s(served: Served) -> None:
    served.node(ALPHA)
    served.node("12D3KooWbeta-alpha")
    assert (await served.hold("Walpha", {"state": "forced_open"}))[1]["peer_id"] == ALPHA
    status, found = await served.hold("alpha", {"state": "forced_open"})
    assert (status, found["error"]) == (
        400,
        f"'alpha' may mean 2 nodes: {ALPHA}, 12D3KooWbeta-alpha; give the whole peer id of one",
    )
    assert (await served.hold("pha", {"state": "forced_open"}))[0] == 404
    assert (await served.hold("12D3", {"state": "forced_open"}))[0] == 400


async def test_node_that_is_away_can_be_let_go_of(served: Served) -> None:
    served.node(ALPHA)
    await served.hold(ALPHA, {"state": "forced_open", "model": "m"})
    served.view.apply([Left(PeerId(ALPHA), LeftReason.EXPIRED)])
    status, found = await served.hold(ALPHA, {"state": "automatic", "model": "m"})
    assert (status, found["overrides"]) == (200, [])
    assert (await served.hold(ALPHA, {"state": "automatic"}))[0] == 404


async def test_unknown_node_or_model_is_not_found_and_those_there_are_named(
    served: Served,
) -> None:
    served.node(ALPHA)
    status, found = await served.hold("nobody", {"state": "forced_open"})
    assert status == 404
    assert found["error"].startswith("no node is named 'nobody', and no peer id is, begins")
    assert found["error"].endswith(f"the fleet's nodes: {ALPHA}")
    assert await served.hold(ALPHA, {"state": "forced_open", "model": "x"}) == (
        404,
        {"error": f"node {ALPHA} has no model 'x'; it has m/1", "code": "model_not_found"},
    )
    status, _ = await served.hold(ALPHA, {"state": "forced_open", "model": "m", "version": "2"})
    assert status == 404


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"state": "open"}, "the state 'open' is unknown; there are forced_open, forced_closed"),
        ({}, "the state '' is unknown"),
        ({"state": None}, "a text is expected"),
        ({"state": "forced_open", "modle": "m"}, "the key 'modle' is unknown"),
        ({"state": "forced_open", "version": "1"}, "of which model?"),
        (b"", "not JSON"),
        (b"[]", "must be an object"),
    ],
)
async def test_command_that_is_none_is_refused_and_changes_nothing(
    served: Served, body: object, error: str
) -> None:
    endpoint = served.node(ALPHA)
    status, found = await served.hold(ALPHA, body)
    assert status == 400
    assert error in found["error"]
    assert endpoint.health.is_full
    assert served.log.events == []


async def test_body_that_is_too_large_is_refused(served: Served) -> None:
    served.node(ALPHA)
    assert (await served.hold(ALPHA, bytes(MAX_BODY_BYTES + 1)))[0] == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(MAX_BODY_BYTES // 2)

    response = await served.client.put(f"/v1/nodes/{ALPHA}/circuit", data=chunks(), headers=KEY)
    assert response.status == 413


async def test_command_that_does_not_arrive_in_time_is_a_408_and_changes_nothing() -> None:
    async with serving(arrival_s=0.05) as served:
        endpoint = served.node(ALPHA)
        never = asyncio.Event()

        async def beginning() -> AsyncIterator[bytes]:
            yield b'{"state": '
            await never.wait()

        async with asyncio.timeout(60):
            response = await served.client.put(
                f"/v1/nodes/{ALPHA}/circuit", data=beginning(), headers=KEY
            )
        assert response.status == 408
        assert endpoint.health.is_full


async def test_requests_that_failed_are_shown_with_the_nodes_that_were_asked(
    served: Served,
) -> None:
    attempt = AttemptTimes("A", "127.0.0.1:1", 40.5, 41.0, "link_lost: gone")
    ENDED.failed("m", LinkLost("gone"))
    ENDED.ended(RequestTimes("m", "", "link_lost", 40.0, 41.0, (attempt,)))
    reply = await served.client.get("/v1/requests")
    assert reply.status == 200
    assert reply.headers["Cache-Control"] == "no-store"
    (kind,) = (await reply.json())["kinds"]
    (row,) = kind.pop("newest")
    assert kind == {
        "model": "m",
        "code": "link_lost",
        "count": 1,
        "last_at": 1_000.0,
        "error": "gone",
    }
    assert (row["model"], row["began_at"], row["took_s"]) == ("m", 990.0, 1.0)
    assert row["attempts"] == [
        {
            "peer_id": "A",
            "address": "127.0.0.1:1",
            "after_s": 0.5,
            "took_s": 0.5,
            "queue_s": 0.0,
            "run_s": 0.0,
            "outcome": "link_lost: gone",
        }
    ]
