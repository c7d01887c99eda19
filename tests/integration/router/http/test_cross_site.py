"""Pages of other sites in a client's browser: what they send is refused on every route, unless their origin is allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from raw_http import ask
from route_paths import filled
from router_http import INFER, Http, serving
from tidy_router import X
from ws_client import STREAM
from ws_client import head as websocket

ELSEWHERE = {"Origin": "https://elsewhere.example"}
ACCESS = {"Access-Control-Allow-Origin", "Access-Control-Allow-Methods"}
PREFLIGHT = {
    **ELSEWHERE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type",
}


APP = "https://app.example"
REBOUND = {"Host": "evil.example:8000"}
STRANGE = {
    "a name that was made to lead here": REBOUND,
    "the same, to the browser its own page": {**REBOUND, "Sec-Fetch-Site": "same-origin"},
    "another site's page": {"Sec-Fetch-Site": "cross-site"},
    "a page of another port": {"Sec-Fetch-Site": "same-site", **ELSEWHERE},
    "another site's page in an older browser": ELSEWHERE,
    "a file, or a frame in a sandbox": {"Origin": "null"},
}


def routes_of(http: Http) -> list[tuple[str, str]]:
    return [(route.method, filled(route.path)) for route in http.routes]


@pytest_asyncio.fixture
async def guarded() -> AsyncIterator[Http]:
    """A router that has no name of its own; one origin may ask it."""
    async with serving(allowed_hosts=(), allowed_origins=(APP,)) as http:
        http.node("a")
        yield http


@pytest.mark.parametrize("headers", STRANGE.values(), ids=list(STRANGE))
async def test_strangers_page_is_refused_on_every_route(
    guarded: Http, headers: dict[str, str]
) -> None:
    for method, path in routes_of(guarded):
        answer = await guarded.client.request(method, path, headers=headers)
        assert (method, path, answer.status) == (method, path, 403)
        assert ACCESS.isdisjoint(answer.headers)
        if method != "HEAD":
            assert "--allow-" in await answer.text()


async def test_routes_of_json_take_no_other_type_than_those_that_clients_name_it_by(
    guarded: Http,
) -> None:
    taken = [route for route in guarded.routes if route.takes_json]
    assert len(taken) > 15
    multipart = "multipart/form-data; boundary=x"
    for kind in ("text/plain", "text/plain;charset=UTF-8", multipart, "application/xml"):
        for route in taken:
            path, headers = filled(route.path), {"Content-Type": kind}
            answer = await guarded.client.request(route.method, path, data=b"{}", headers=headers)
            assert (path, answer.status) == (path, 415)
            assert "send 'Content-Type: application/json'" in await answer.text()
    form = "application/x-www-form-urlencoded"
    for kind in ("application/json; charset=utf-8", "application/vnd.api+json", form, ""):
        answer = await guarded.infer({"inputs": [X]}, headers={"Content-Type": kind})
        assert answer.status == 200, await answer.text()


OWN = (
    *(
        {"Host": each}
        for each in ("localhost:1234", "capamesh.localhost", "10.1.2.3", "[::1]:8000", "LOCALHOST.")
    ),
    {"Host": "localhost:81", "Origin": "http://localhost:81"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "cross-site", "Origin": APP},
)


@pytest.mark.parametrize("headers", OWN)
async def test_request_by_a_name_of_the_router_or_of_its_page_is_served(
    guarded: Http, headers: dict[str, str]
) -> None:
    answer = await guarded.infer({"inputs": [X]}, path=INFER, headers=headers)
    assert answer.status == 200, await answer.text()
    assert (await guarded.client.get("/v1/nodes", headers=headers)).status == 200


async def test_person_may_follow_a_link_to_the_page(guarded: Http) -> None:
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    visit |= {"Accept": "text/html", "Sec-Fetch-Dest": "document"}
    assert (await guarded.client.get("/", headers=visit)).status == 200
    assert (await guarded.client.post(INFER, json={"inputs": [X]}, headers=visit)).status == 403
    framed = {**visit, "Sec-Fetch-Dest": "iframe"}
    assert (await guarded.client.get("/", headers=framed)).status == 403


async def test_body_of_what_is_refused_is_not_waited_for(guarded: Http) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 60000000\r\n\r\n"
    for path in (b"/v1/files", INFER.encode()):
        assert (await ask(guarded.client.port, head % path)).status == 403


@pytest.mark.parametrize(
    ("authority", "metadata"),
    [
        ("evil.example:8000", ()),
        ("localhost", (("origin", "https://elsewhere.example"),)),
        ("localhost", (("sec-fetch-site", "cross-site"),)),
    ],
)
@pytest.mark.real_loop("grpcio has sockets of its own")
async def test_strangers_page_is_refused_over_grpc(
    guarded: Http, authority: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    client = guarded.client
    for name, sent, code in ((authority, metadata, "PERMISSION_DENIED"), ("localhost", (), "OK")):
        options = (("grpc.default_authority", name),)
        async with grpc.aio.insecure_channel(f"{client.host}:{client.port}", options) as channel:
            call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(
                b"", metadata=sent
            )
            assert (await call.code()).name == code


@pytest.mark.parametrize(
    ("host", "lines", "status"),
    [
        ("evil.example", (), 403),
        ("evil.example", ("Origin: http://evil.example",), 403),
        ("localhost", ("Origin: https://elsewhere.example",), 403),
        ("localhost", ("Sec-Fetch-Site: cross-site",), 403),
        ("localhost", (f"Origin: {APP}", "Sec-Fetch-Site: cross-site"), 101),
        ("localhost", ("Origin: http://localhost",), 101),
    ],
)
async def test_strangers_page_opens_no_websocket(
    guarded: Http, host: str, lines: tuple[str, ...], status: int
) -> None:
    client = guarded.client
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(websocket(STREAM, *lines, host=host))
    assert int((await reader.readline()).split()[1]) == status
    writer.close()


async def test_page_of_an_allowed_origin_asks_first_and_reads_every_answer(guarded: Http) -> None:
    for path in {path for _, path in routes_of(guarded)}:
        answer = await guarded.client.request("OPTIONS", path, headers={**PREFLIGHT, "Origin": APP})
        assert (path, answer.status) == (path, 204)
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    for path, status in (("/v1/nodes", 200), ("/nothing", 404), ("/v2/models/none/infer", 405)):
        answer = await guarded.client.get(path, headers={"Origin": APP})
        assert (path, answer.status) == (path, status)
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert answer.headers["Access-Control-Expose-Headers"] == "*"
        assert "Origin" in answer.headers["Vary"]


async def test_page_of_an_allowed_origin_follows_events_and_learns_why_it_is_refused(
    guarded: Http,
) -> None:
    get, headers = guarded.client.get, {"Origin": APP, "Sec-Fetch-Site": "cross-site"}
    async with await get("/v1/page/changes?after=", headers=headers) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert answer.headers["Access-Control-Allow-Origin"] == APP
    refused = await get("/v1/nodes", headers={**headers, **REBOUND})
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (403, APP)


async def test_page_says_what_browsers_may_do_with_it_and_names_others_no_origin(
    guarded: Http,
) -> None:
    answer = await guarded.client.get("/v1/nodes")
    assert (answer.status, answer.headers["Vary"]) == (200, "Origin")
    assert ACCESS.isdisjoint(answer.headers)
    answer = await guarded.client.get("/", headers={"Accept": "text/html"})
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
