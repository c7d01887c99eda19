"""A router that asks for keys, over real sockets: what each route takes, and how that is told."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fleet_fakes import offer
from route_paths import filled
from router_http import INFER, Http, serving

from capamesh.router.access.keys import (
    ALPHABET,
    Key,
    Scope,
    Verb,
    digest_of,
    id_of,
    new_text,
)
from capamesh.router.http.route import Route
from capamesh.router.page.backlog import Reader

BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
SECRET_NODE, SECRET_MODEL = "node-of-others", "model-of-others"
"""Names that nobody without a key for them may read."""


class Keyring:
    """Keys of all sorts for one server."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._made: dict[str, Key] = {}
        self._draws = iter(ALPHABET * 1000)

    def make(self, *verbs: Verb, tenant: str = "lab", **scope: Any) -> str:
        """Return a new key, which the server takes."""
        text = new_text(lambda _: next(self._draws))
        key = Key(id_of(text), digest_of(text), tenant, Scope(verbs=verbs, **scope))
        self._made[text] = key
        self.take()
        return text

    def revoke(self, text: str) -> None:
        del self._made[text]
        self.take()

    def take(self) -> None:
        self._http.front.keys.ring.take(self._made.values(), 0.0, 0.0)


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async with serving() as http:
        http.node("A")
        yield http


@pytest.fixture
def keys(http: Http) -> Keyring:
    return Keyring(http)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def is_stream(response: aiohttp.ClientResponse) -> bool:
    return "event-stream" in response.headers.get("Content-Type", "")


async def asked(
    http: Http, method: str, path: str, headers: dict[str, str]
) -> aiohttp.ClientResponse:
    """Send a request and read its answer, but for the end of a stream."""
    body = json.dumps(BODY).encode() if method != "GET" else None
    response = await http.client.request(method, filled(path), data=body, headers=headers)
    if is_stream(response):
        response.close()
    else:
        await response.read()
    return response


async def test_routes_without_a_key_are_those_that_say_nothing_of_the_network(http: Http) -> None:
    is_open = {(route.method, route.path) for route in http.routes if not route.verbs}
    assert is_open == {("GET", "/v2/health/live"), ("GET", "/v2/health/ready")}
    listed = await http.client.get("/")
    assert [(each["method"], each["path"]) for each in (await listed.json())["routes"]] == [
        (route.method, route.path) for route in http.routes
    ]


async def test_every_route_refuses_whoever_has_no_key_for_it(http: Http, keys: Keyring) -> None:
    of_each = {verb: keys.make(verb) for verb in Verb}
    unknown = "cm_unknown0_" + 32 * "0"
    for route in http.routes:
        method, path = route.method, route.path
        if not route.verbs:
            assert (await asked(http, method, path, {})).status in {200, 503}
            continue
        for headers in ({}, bearer(unknown), {"X-API-Key": unknown}, bearer("")):
            response = await asked(http, method, path, headers)
            assert (response.status, response.headers["X-Capamesh-Error"]) == (
                401,
                "unauthenticated",
            ), (method, path)
            assert response.headers["WWW-Authenticate"] == "Bearer"
        for verb, text in of_each.items():
            response = await asked(http, method, path, bearer(text))
            is_refused = response.status in {401, 403}
            assert is_refused is (verb not in route.verbs), (method, path, verb)
            if is_refused:
                assert response.headers["X-Capamesh-Error"] == "forbidden"


async def test_refused_key_reads_no_name_of_the_network(http: Http, keys: Keyring) -> None:
    http.node(SECRET_NODE, models=(offer(SECRET_MODEL),))
    await http.infer(BODY, path=f"/v2/models/{SECRET_MODEL}/infer")  # it is in what is counted
    of_each = [keys.make(verb, models=("mine",)) for verb in Verb]
    seen = 0
    for route in http.routes:
        for text in ("", *of_each):
            headers = bearer(text) if text else {}
            response = await asked(http, route.method, route.path, headers)
            shown = f"{response.headers} {'' if is_stream(response) else await response.text()}"
            is_told = SECRET_NODE in shown or SECRET_MODEL in shown
            seen += is_told
            assert not (is_told and response.status in {401, 403}), (route.path, shown)
            if text == of_each[0]:  # one that may run its own model sees no other
                assert not is_told, (route.path, shown)
    assert seen >= 5  # those who may see them do


def test_route_of_which_nothing_is_said_takes_an_admins_key_alone() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    assert Route("GET", "/new", handler).verbs == (Verb.ADMIN,)


async def test_operators_key_opens_every_route(http: Http, keys: Keyring) -> None:
    keys.make(Verb.INFER)
    for route in http.routes:
        assert (await asked(http, route.method, route.path, bearer("secret"))).status not in {
            401,
            403,
        }


OF_OPERATOR = (
    "/v1/nodes/{peer}/circuit",
    "/v2/repository/models/{model}/load",
    "/v2/repository/models/{model}/unload",
)


async def test_router_asks_for_no_key_before_the_first_was_made(http: Http) -> None:
    assert (await http.infer(BODY)).status == 200
    for route in http.routes:
        status = (await asked(http, route.method, route.path, {})).status
        assert (status == 401) is (route.path in OF_OPERATOR), route.path


@pytest.mark.pure
@pytest.mark.parametrize("is_plain", [True, False], ids=["front", "aiohttp"])
async def test_inference_is_as_its_keys_tenant(
    http: Http, keys: Keyring, monkeypatch: pytest.MonkeyPatch, is_plain: bool
) -> None:
    tenants: list[str] = []
    start = http.fleet.routing.pipeline.start
    monkeypatch.setattr(
        http.fleet.routing.pipeline,
        "start",
        lambda call, responder: tenants.append(call.options.tenant) or start(call, responder),
    )
    text = keys.make(Verb.INFER, tenant="lab")
    other = {} if is_plain else {"Expect": "100-continue"}  # the front leaves that to aiohttp
    for headers in (bearer(text), {"X-API-Key": text}):
        assert (await http.infer(BODY, headers={**headers, **other})).status == 200
    own = {**bearer(text), "X-Capamesh-Tenant": "lab", **other}
    assert (await http.infer(BODY, headers=own)).status == 200
    stranger = {**bearer(text), "X-Capamesh-Tenant": "rich", **other}
    assert (await http.infer(BODY, headers=stranger)).status == 403
    operator = {**bearer("secret"), "X-Capamesh-Tenant": "any", **other}
    assert (await http.infer(BODY, headers=operator)).status == 200
    assert tenants == ["lab", "lab", "lab", "any"]


@pytest.mark.parametrize("is_plain", [True, False], ids=["front", "aiohttp"])
async def test_models_and_priority_of_a_key(http: Http, keys: Keyring, is_plain: bool) -> None:
    other = {} if is_plain else {"Expect": "100-continue"}
    text = keys.make(Verb.INFER, models=("digits*",), max_priority=100)
    response = await http.infer(BODY, headers={**bearer(text), **other})
    assert response.status == 403
    error = (await response.json())["error"]
    assert error == "the key is not for this model; ask the router's operator for one that is"
    text = keys.make(Verb.INFER, models=("m",), max_priority=100)
    for priority, status in ((100, 200), (99, 403), (0, 200)):
        body = {**BODY, "parameters": {"priority": priority}}
        assert (await http.infer(body, headers={**bearer(text), **other})).status == status


async def test_key_sees_the_pages_of_its_own_models_alone(http: Http, keys: Keyring) -> None:
    own, other = keys.make(Verb.INFER, models=("m",)), keys.make(Verb.INFER, models=("n",))
    reader = keys.make(Verb.INFER, Verb.READ, models=("n",))
    for page in ("", "/ready", "/config"):
        statuses = [
            (await http.client.get(f"/v2/models/m{page}", headers=bearer(text))).status
            for text in (own, other, reader)
        ]
        assert statuses == [200, 403, 200]


async def test_revoked_key_is_refused_on_a_connection_that_was_taken(
    http: Http, keys: Keyring
) -> None:
    text = keys.make(Verb.INFER)
    assert (await http.infer(BODY, headers=bearer(text))).status == 200
    keys.revoke(text)
    assert (await http.infer(BODY, headers=bearer(text))).status == 401


async def test_stream_of_the_page_ends_with_its_key(
    http: Http, keys: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = keys.make(Verb.READ)
    snapshot = await http.client.get("/v1/page/snapshot", headers=bearer(text))
    revision = (await snapshot.json())["revision"]
    waiting = asyncio.Event()
    go_on = asyncio.Event()

    async def wait(_: Reader, seconds: float) -> None:
        del seconds
        waiting.set()
        await go_on.wait()

    monkeypatch.setattr(http.feed, "wait", wait)
    stream = await http.client.get(f"/v1/page/changes?after={revision}", headers=bearer(text))
    await waiting.wait()
    keys.revoke(text)
    go_on.set()
    async with asyncio.timeout(30.0):  # else it follows without a key
        await stream.read()
    assert stream.content.at_eof()


async def test_browser_sends_its_key_as_a_password_to_read_alone(http: Http, keys: Keyring) -> None:
    text = keys.make(Verb.READ, Verb.INFER)
    basic = {"Authorization": "Basic " + base64.b64encode(f"me:{text}".encode()).decode()}
    asked_for = await http.client.get("/", headers={"Accept": "text/html,*/*"})
    assert asked_for.status == 401
    assert asked_for.headers["WWW-Authenticate"] == 'Basic realm="capamesh"'
    assert (await http.client.get("/v1/nodes", headers=basic)).status == 200
    assert (await http.infer(BODY, headers=basic)).status == 401
    response = await http.client.post("/v2/repository/index", headers=basic)
    assert response.status == 401
    for broken in ("Basic !!!", "Basic w6k=", "Basic"):
        response = await http.client.get("/v1/nodes", headers={"Authorization": broken})
        assert response.status == 401


async def test_admins_key_holds_a_node(http: Http, keys: Keyring) -> None:
    text = keys.make(Verb.ADMIN)
    response = await http.client.request(
        "PUT", "/v1/nodes/A/circuit", data=b'{"state": "forced_open"}', headers=bearer(text)
    )
    assert response.status == 200


async def test_store_that_is_down_is_503_for_keys_that_are_not_known(
    http: Http, keys: Keyring
) -> None:
    text, unknown = keys.make(Verb.INFER, Verb.READ), "cm_unknown0_" + 32 * "0"
    http.front.keys.ring.failed(1.0)
    assert (await http.infer(BODY, headers=bearer(text))).status == 200
    for response in (
        await http.infer(BODY, headers=bearer(unknown)),
        await http.client.get("/v1/nodes", headers=bearer(unknown)),
    ):
        assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "keys_unavailable")
        assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("is_plain", [True, False], ids=["front", "aiohttp"])
async def test_limit_of_a_key_is_429_with_the_time_to_come_again(
    http: Http, keys: Keyring, is_plain: bool
) -> None:
    other = {} if is_plain else {"Expect": "100-continue"}
    text = keys.make(Verb.INFER, requests_per_s=0.1)
    other_text = keys.make(Verb.INFER, requests_per_s=0.1)
    assert (await http.infer(BODY, headers={**bearer(text), **other})).status == 200
    response = await http.infer(BODY, headers={**bearer(text), **other})
    assert (response.status, response.headers["X-Capamesh-Error"]) == (429, "too_many_requests")
    assert int(response.headers["Retry-After"]) in {9, 10}
    assert (await http.infer(BODY, headers={**bearer(other_text), **other})).status == 200


async def test_answered_requests_are_counted_for_their_tenant(http: Http, keys: Keyring) -> None:
    http.quotas.tick(0.0, ())
    text = keys.make(Verb.INFER, tenant="lab")
    for _ in range(2):
        assert (await http.infer(BODY, headers=bearer(text))).status == 200
    nobodys = "/v2/models/nobodys/infer"
    assert (await http.infer(BODY, path=nobodys, headers=bearer(text))).status == 404
    assert (await http.infer(BODY, headers=bearer("secret"))).status == 200  # the operator
    ((row, amount),) = http.quotas.unwritten().rows.items()
    assert (row.tenant, row.model, amount.requests, amount.rows) == ("lab", "m", 2, 2)
    assert amount.bytes > 2 * 8  # those that came, and those that went


async def test_requests_are_counted_by_tenant_and_by_the_limit_that_refused_them(
    http: Http, keys: Keyring
) -> None:
    text = keys.make(Verb.INFER, tenant="lab", requests_per_s=0.1)
    for status in (200, 429):
        assert (await http.infer(BODY, headers=bearer(text))).status == status
    assert (await http.infer(BODY, headers=bearer("secret"))).status == 200  # of no tenant
    counted = [
        line
        for line in http.telemetry.exposition().decode().splitlines()
        if line.startswith("capamesh_tenant_requests_total")
    ]
    assert counted == [
        'capamesh_tenant_requests_total{code="ok",tenant="lab"} 1.0',
        'capamesh_tenant_requests_total{code="too_many_requests",tenant="lab"} 1.0',
    ]
    assert http.quotas.over == {"requests": 1}


async def test_large_body_without_a_key_is_refused_unread(http: Http, keys: Keyring) -> None:
    keys.make(Verb.INFER)
    reader, writer = await asyncio.open_connection(http.client.host, http.client.port)
    writer.write(f"POST {INFER} HTTP/1.1\r\nHost: h\r\nContent-Length: 60000000\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    assert http.front.budget.used_bytes == 0
    writer.close()
    await writer.wait_closed()
