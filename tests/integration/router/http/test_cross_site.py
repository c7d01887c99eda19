"""Pages of other sites in a client's browser: none is told that it may read what a router answers, on any route."""

from __future__ import annotations

import pytest
from route_paths import filled
from router_http import INFER, Http
from tidy_router import X

ELSEWHERE = {"Origin": "https://elsewhere.example"}
PREFLIGHT = {
    **ELSEWHERE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type",
}


async def test_preflight_is_refused_on_every_route(http: Http) -> None:
    answer = await http.client.get("/", headers={"Accept": "application/json"})
    paths = {filled(str(route["path"])) for route in (await answer.json())["routes"]}
    assert len(paths) > 20
    for path in sorted(paths):
        answer = await http.client.request("OPTIONS", path, headers=PREFLIGHT)
        assert (path, answer.status) == (path, 405)
        assert " not OPTIONS" in await answer.text()
        assert [name for name in answer.headers if name.lower().startswith("access-control")] == []


@pytest.mark.parametrize("path", ["/", "/v2", "/v1/nodes", "/metrics", "/nothing"])
async def test_answer_may_not_be_read_by_other_sites(http: Http, path: str) -> None:
    answer = await http.client.get(path, headers=ELSEWHERE)
    assert [name for name in answer.headers if name.lower().startswith("access-control")] == []


async def test_inference_may_not_be_read_by_other_sites(http: Http) -> None:
    http.node("a")
    answer = await http.infer({"inputs": [X]}, path=INFER, headers=ELSEWHERE)
    assert answer.status == 200
    assert [name for name in answer.headers if name.lower().startswith("access-control")] == []


async def test_page_says_what_browsers_may_do_with_it(http: Http) -> None:
    answer = await http.client.get("/", headers={"Accept": "text/html"})
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
