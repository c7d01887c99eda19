"""The description of the routes, at the front of a real router core: what is answered is as it says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

import aiohttp
import pytest
from fleet_fakes import offer
from openapi_fits import DOCUMENT, answers_of, misfits
from route_paths import VALUES, filled
from router_http import INFER, Http

from capamesh.protocol.errors import Overloaded
from capamesh.router.http.route import Route

BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


@pytest.fixture
def http(http: Http) -> Iterator[Http]:
    http.node("A", models=(offer(), offer("other", reason="because")))
    yield http
    http.log.events.clear()  # what was changed


async def described(http: Http, route: Route, response: aiohttp.ClientResponse) -> list[str]:
    """Return where an answer is not as the description says."""
    contents = answers_of(route.method, route.path, response.status)
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    if not contents:
        return [] if not await response.read() else ["there is a body"]
    if media_type not in contents:
        return [f"{media_type} is none of {list(contents)}"]
    if media_type != "application/json":
        return []
    return list(misfits(await response.json(), contents[media_type]["schema"]))


async def test_description_has_every_route_and_no_other(http: Http) -> None:
    response = await http.client.get("/openapi.json")
    assert await response.json() == DOCUMENT
    listed = {
        (method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    assert listed == {(route.method, route.path) for route in http.routes}
    for route in http.routes:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        assert operation["x-key"] == list(route.verbs), route.path
        good = operation["responses"].get("200", {}).get("content", {})
        assert bool(good) == bool(route.answer), route.path


async def test_description_is_sent_once_to_who_keeps_it(http: Http) -> None:
    response = await http.client.get("/openapi.json")
    tag = response.headers["ETag"]
    again = await http.client.get("/openapi.json", headers={"If-None-Match": tag})
    assert (again.status, await again.read()) == (304, b"")
    assert response.headers["Content-Encoding"] == "gzip"


async def test_every_answer_is_as_described(http: Http) -> None:
    await http.infer({**BODY, "outputs": [{"name": "none"}]})  # something failed of late
    http.telemetry.refused(offer().name, Overloaded("full"), is_known=True)
    http.fill_history(3, lambda: 1.0)
    statuses: dict[int, int] = {}
    for route in http.routes:
        for values in (VALUES, dict.fromkeys(VALUES, "unknown")):
            path = filled(route.path, **values)
            bodies: list[bytes | None] = [None]
            if route.body:
                bodies = [b"", b"junk", json.dumps(BODY).encode(), b'{"state":"forced_open"}']
            for body in bodies:
                headers = {"Authorization": "Bearer secret"}
                response = await http.client.request(
                    route.method, path, data=body, headers=headers, allow_redirects=False
                )
                if route.path == "/v1/page/changes":
                    response.close()
                    continue
                wrong = await described(http, route, response)
                assert wrong == [], (route.method, path, body, response.status)
                statuses[response.status] = statuses.get(response.status, 0) + 1
    assert statuses[200] > 30
    assert {400, 404} <= statuses.keys()


async def test_answers_to_inference_are_as_described(http: Http) -> None:
    route = next(route for route in http.routes if route.path == INFER.replace("/m/", "/{model}/"))
    for more in ({}, {"id": "7"}, {"parameters": {"binary_data_output": True}}, {"inputs": 7}):
        response = await http.infer({**BODY, **more})
        assert await described(http, route, response) == [], more


def test_operations_have_names_of_their_own_and_references_lead_somewhere() -> None:
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    assert all(each["summary"] for each in operations)
    for part, name in re.findall(r'"#/components/(\w+)/([^"]+)"', json.dumps(DOCUMENT)):
        assert name in DOCUMENT["components"][part], name
    assert DOCUMENT["openapi"] == "3.1.0"


async def test_requests_are_counted_by_route_and_status(http: Http) -> None:
    for path in ("/v2/models/m", "/v2/models/m/versions/1", "/v2/models/x", "/nothing"):
        await http.client.get(path)
    await http.infer(BODY)
    await http.infer(BODY, path="/v2/models/m/versions/1/infer")
    await http.infer(BODY, headers={"Expect": "100-continue"})  # which aiohttp answers
    await http.infer({})
    counted: Counter[tuple[str, str, str]] = Counter()
    for labels, count in http.front.requests.answered():
        counted[labels] += int(count)
    assert counted == {
        ("GET", "/v2/models/{model}", "200"): 1,
        ("GET", "/v2/models/{model}/versions/{version}", "200"): 1,
        ("GET", "/v2/models/{model}", "404"): 1,
        ("", "", "404"): 1,
        ("POST", "/v2/models/{model}/infer", "200"): 3,
        ("POST", "/v2/models/{model}/infer", "400"): 1,
    }
