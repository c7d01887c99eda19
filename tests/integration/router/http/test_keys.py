"""A router that asks for keys: what a key may do, how it is sent, and how it is refused. Every route and verb: `test_strangers_read_no_names`."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from aiohttp import web
from raw_http import ask, request
from route_paths import filled
from router_http import INFER, Http, bearer

from capamesh.router.access.keys import Verb
from capamesh.router.access.page_logins import LASTS_S, PageLogins
from capamesh.router.http.route import Route
from capamesh.router.page.backlog import Reader

BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
UNKNOWN = "cm_unknown0_" + 32 * "0"
WAYS = pytest.mark.parametrize(
    "way",
    [{}, {"Expect": "100-continue"}],  # the front leaves that to aiohttp
    ids=["front", "aiohttp"],
)


@pytest.fixture
def http(http: Http) -> Http:
    http.node("A")
    return http


async def status(http: Http, headers: dict[str, str], **more: object) -> int:
    """Return the status of an inference."""
    return (await http.infer({**BODY, **more}, headers=headers)).status


def test_route_of_which_nothing_is_said_takes_an_admins_key_alone() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    assert Route("GET", "/new", handler).verbs == (Verb.ADMIN,)


async def test_router_asks_for_no_key_before_the_first_was_made(http: Http) -> None:
    of_operator = {
        ("PUT", "/v1/nodes/{peer}/circuit"),
        ("DELETE", "/v1/nodes/{peer}"),
        ("POST", "/v2/repository/models/{model}/load"),
        ("POST", "/v2/repository/models/{model}/unload"),
    }
    assert await status(http, {}) == 200
    for route in http.routes:
        body = None if route.method == "GET" else json.dumps(BODY).encode()
        response = await http.client.request(route.method, filled(route.path), data=body)
        asked = route.method, route.path
        assert (response.status == 401) is (asked in of_operator), asked
        response.close()
    http.log.events.clear()  # what was changed


@pytest.mark.pure
@WAYS
async def test_inference_is_as_its_keys_tenant(
    http: Http, monkeypatch: pytest.MonkeyPatch, way: dict[str, str]
) -> None:
    tenants: list[str] = []
    start = http.fleet.routing.pipeline.start
    monkeypatch.setattr(
        http.fleet.routing.pipeline,
        "start",
        lambda call, responder: tenants.append(call.options.tenant) or start(call, responder),
    )
    text = http.key(tenant="lab")
    tenant = "X-Capamesh-Tenant"
    for headers, expected in (
        (bearer(text), 200),
        ({"X-API-Key": text}, 200),
        ({**bearer(text), tenant: "lab"}, 200),
        ({**bearer(text), tenant: "rich"}, 403),
        ({**bearer("secret"), tenant: "any"}, 200),  # the operator
    ):
        assert await status(http, {**headers, **way}) == expected
    assert tenants == ["lab", "lab", "lab", "any"]


@WAYS
async def test_key_is_held_to_its_models_priority_and_rate(http: Http, way: dict[str, str]) -> None:
    response = await http.infer(BODY, headers={**http.bearer(models=("digits*",)), **way})
    said = "the key is not for this model; ask the router's operator for one that is"
    assert (response.status, (await response.json())["error"]) == (403, said)
    urgent = {**http.bearer(models=("m",), max_priority=100), **way}
    for priority, expected in ((100, 200), (99, 403), (0, 200)):
        assert await status(http, urgent, parameters={"priority": priority}) == expected
    slow, other = ({**http.bearer(requests_per_s=0.1), **way} for _ in range(2))
    assert await status(http, slow) == 200
    response = await http.infer(BODY, headers=slow)
    assert (response.status, response.headers["X-Capamesh-Error"]) == (429, "too_many_requests")
    assert int(response.headers["Retry-After"]) in {9, 10}
    assert await status(http, other) == 200


async def test_key_sees_the_pages_of_its_own_models_alone(http: Http) -> None:
    both = (Verb.INFER, Verb.READ)
    keys = [http.bearer(models=(each,)) for each in "mn"] + [http.bearer(*both, models=("n",))]
    for page in ("", "/ready", "/config"):
        answers = [await http.client.get(f"/v2/models/m{page}", headers=each) for each in keys]
        assert [each.status for each in answers] == [200, 403, 200]


async def test_stream_of_the_page_ends_with_its_key(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = http.key(Verb.READ)
    snapshot = await http.client.get("/v1/page/snapshot", headers=bearer(text))
    revision = (await snapshot.json())["revision"]
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: Reader, seconds: float) -> None:
        del seconds
        waiting.set()
        await go_on.wait()

    monkeypatch.setattr(http.feed, "wait", wait)
    stream = await http.client.get(f"/v1/page/changes?after={revision}", headers=bearer(text))
    await waiting.wait()
    http.revoke(text)
    go_on.set()
    await stream.read()  # else it follows without a key
    assert stream.content.at_eof()


HTML = {"Accept": "text/html,*/*"}


async def logged_in(http: Http, text: str, status: int = 303) -> dict[str, str]:
    """Send the form of the page with a key; return the header with the cookie that came."""
    answer = await http.client.post("/login", data={"key": text}, allow_redirects=False)
    assert answer.status == status
    assert text == "" or text not in await answer.text()
    cookie = answer.headers.get("Set-Cookie", "")
    assert (not cookie) or cookie.endswith("; Max-Age=43200; HttpOnly; SameSite=Strict")
    return {"Cookie": cookie.partition(";")[0]}


async def test_browser_is_asked_for_a_key_by_a_page_and_reads_by_the_cookie_that_it_gets(
    http: Http,
) -> None:
    text, other = http.key(Verb.READ, Verb.INFER, Verb.ADMIN), http.key(Verb.INFER)
    for path, root in (("/", ""), ("/docs", ""), ("/v2/models/", "../../")):
        asked = await http.client.get(path, headers=HTML)
        assert (asked.status, asked.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert f'action="{root}login"' in await asked.text()
        assert "script-src" not in asked.headers["Content-Security-Policy"]
    for wrong, refused in ((UNKNOWN, 401), ("", 401), (other, 403), ("<b>", 401)):
        assert await logged_in(http, wrong, refused) == {"Cookie": ""}
    assert (await http.client.post("/login", data={"key": "x" * 5000})).status == 413
    for key in (text, "secret"):  # the operator's
        cookie = await logged_in(http, key)
        for path in ("/", "/docs", "/v1/nodes", "/v1/page/snapshot", "/v2/models/m"):
            assert (await http.client.get(path, headers={**HTML, **cookie})).status == 200
        # it reads what the page reads, and does nothing
        assert (await http.client.get("/metrics", headers=cookie)).status == 401
        assert (await http.client.get("/v1/jobs", headers=cookie)).status == 401
        assert (await http.client.post("/v2/repository/index", headers=cookie)).status == 401
        assert await status(http, cookie) == 401
    made, _, mark = cookie["Cookie"].rpartition(".")
    for forged in (
        f"{made}.{mark[:-1]}0",
        f"{made[:-1]}9.{mark}",
        f"{made}.",
        "x",
        made.partition("=")[0],
    ):
        assert (await http.client.get("/", headers={"Cookie": forged})).status == 401


async def test_browser_that_is_logged_in_is_shown_the_way_out_and_forgets_its_login_there(
    http: Http,
) -> None:
    text = http.key(Verb.READ)
    cookie = await logged_in(http, text)
    for headers, is_shown in ((cookie, True), (bearer(text), False)):
        page = await http.client.get("/", headers={**HTML, **headers})
        assert ("data-login" in await page.text()) is is_shown
    left = await http.client.post("/logout", headers=cookie, allow_redirects=False)
    name = cookie["Cookie"].partition("=")[0]
    assert (left.status, left.headers["Location"]) == (303, "./")
    assert left.headers["Set-Cookie"] == f"{name}=; Max-Age=0; HttpOnly; SameSite=Strict"


async def test_login_ends_with_its_time_its_key_and_its_router(http: Http) -> None:
    text = http.key(Verb.READ)
    keys, cookie = http.front.keys, await logged_in(http, text)
    keys.ring.tick(keys.ring.wall_s + LASTS_S - 1)
    assert (await http.client.get("/v1/nodes", headers=cookie)).status == 200
    keys.ring.tick(keys.ring.wall_s + 1)
    assert (await http.client.get("/v1/nodes", headers=cookie)).status == 401
    cookie = await logged_in(http, text)
    http.revoke(text)
    assert (await http.client.get("/v1/nodes", headers=cookie)).status == 401
    assert PageLogins(b"a").key_id(PageLogins(b"b").text_of("k", 0.0), 0.0) == ""


async def test_browser_sends_its_key_as_a_password_to_read_alone(http: Http) -> None:
    text = http.key(Verb.READ, Verb.INFER)
    basic = {"Authorization": "Basic " + base64.b64encode(f"me:{text}".encode()).decode()}
    assert (await http.client.get("/v1/nodes", headers=basic)).status == 200
    assert await status(http, basic) == 401
    assert (await http.client.post("/v2/repository/index", headers=basic)).status == 401
    for broken in ("Basic !!!", "Basic w6k=", "Basic"):
        response = await http.client.get("/v1/nodes", headers={"Authorization": broken})
        assert response.status == 401


async def test_revoked_key_is_refused_and_one_that_is_not_known_503_while_the_store_is_down(
    http: Http,
) -> None:
    text, known = http.key(), http.bearer(Verb.INFER, Verb.READ)
    assert await status(http, bearer(text)) == 200
    http.revoke(text)
    assert await status(http, bearer(text)) == 401
    http.front.keys.ring.failed(1.0)
    assert await status(http, known) == 200
    for response in (
        await http.infer(BODY, headers=bearer(UNKNOWN)),
        await http.client.get("/v1/nodes", headers=bearer(UNKNOWN)),
    ):
        assert (response.status, response.headers["X-Capamesh-Error"]) == (503, "keys_unavailable")
        assert response.headers["Retry-After"] == "1"


async def test_answered_requests_are_counted_for_their_tenant_and_refused_ones_by_their_limit(
    http: Http,
) -> None:
    http.quotas.tick(0.0, ())
    lab, slow = http.bearer(tenant="lab"), http.bearer(tenant="slow", requests_per_s=0.1)
    for headers, expected in ((lab, 200), (lab, 200), (slow, 200), (slow, 429)):
        assert await status(http, headers) == expected
    assert (await http.infer(BODY, path="/v2/models/no/infer", headers=lab)).status == 404
    assert await status(http, bearer("secret")) == 200  # the operator, who is of no tenant
    used = {(row.tenant, row.model): amount for row, amount in http.quotas.unwritten().rows.items()}
    assert used.keys() == {("lab", "m"), ("slow", "m")}
    amount = used["lab", "m"]
    assert (amount.requests, amount.rows) == (2, 2)
    assert amount.bytes > 2 * 8  # those that came, and those that went
    lines = http.telemetry.exposition().decode().splitlines()
    assert [each[31:] for each in lines if each.startswith("capamesh_tenant_requests_total{")] == [
        'code="ok",tenant="lab"} 2.0',
        'code="model_not_found",tenant="lab"} 1.0',
        'code="ok",tenant="slow"} 1.0',
        'code="too_many_requests",tenant="slow"} 1.0',
    ]
    assert http.quotas.over == {"requests": 1}


async def test_large_body_without_a_key_is_refused_unread(http: Http) -> None:
    http.key()
    answer = await ask(http.client.port, request(INFER, length=60_000_000))
    assert (answer.status, http.front.budget.used_bytes) == (401, 0)
