"""The page at /docs in a real Chromium: it lists all routes, and sends requests to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from browser import Tab
from router_http import Http, serving

from capamesh.router.access.keys import Key, Scope, Verb, digest_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
READY = "document.querySelectorAll('details.route').length > 0"
KEY = "cm_abcdefgh_" + 32 * "1"
OpenDocs = Callable[..., Coroutine[Any, Any, Tab]]


@pytest.fixture
def open_docs(opened: OpenDocs) -> OpenDocs:
    """Return what opens the page on the routes of a router, and waits until it is there."""

    async def docs(http: Http, path: str = "docs", until: str = READY, width: int = 1280) -> Tab:
        return await opened(http, path, until, width)

    return docs


async def unfold(tab: Tab, method: str, path: str) -> str:
    """Open one route, and return the selector of its element."""
    await tab.run(
        "[...document.querySelectorAll('details.route')].forEach((each) => {"
        " const [method, path] = [...each.querySelectorAll('summary .badge, summary code')].map((e) => e.textContent);"
        f" if (method === {json.dumps(method)} && path === {json.dumps(path)})"
        " { each.id = 'it'; each.open = true; } else { each.id = ''; each.open = false; } }); 0"
    )
    await tab.wait_for("document.querySelector('#it form') !== null")
    return "#it"


async def type_into(tab: Tab, selector: str, text: str) -> None:
    await tab.run(
        f"{{ const f = document.querySelector({json.dumps(selector)}); f.value = {json.dumps(text)};"
        " f.dispatchEvent(new Event('input')); } 0"
    )


async def answer_of(tab: Tab) -> tuple[str, str]:
    """Send the form of the route that is open; return the status and the text of the answer."""
    await tab.run("document.querySelector('#it pre[aria-label=Answer]')?.remove()")
    await tab.run("document.querySelector('#it button.primary').click()")
    await tab.wait_for("document.querySelector('#it pre[aria-label=Answer]') !== null")
    return (
        await tab.run("document.querySelector('#it form .badge').textContent"),
        await tab.run("document.querySelector('#it pre[aria-label=Answer]').textContent"),
    )


async def test_every_route_is_listed_with_the_key_that_it_takes(
    http: Http, open_docs: OpenDocs
) -> None:
    tab = await open_docs(http)
    listed = await tab.run(
        "[...document.querySelectorAll('details.route summary')].map((each) =>"
        " [...each.children].map((e) => e.textContent))"
    )
    assert {(method, path) for method, path, _, _ in listed} == {
        (route.method, route.path) for route in http.routes
    }
    keys = {(method, path): key for method, path, _, key in listed}
    assert keys["POST", "/v2/models/{model}/infer"] == "key: infer"
    assert keys["GET", "/v2/health/live"] == "no key"
    assert keys["GET", "/openapi.json"] == "any key"
    await type_into(tab, "input[type=search]", "post version}/infer")
    shown = await tab.run(
        "[...document.querySelectorAll('details.route:not(.hidden) code')].map((e) => e.textContent)"
    )
    assert shown == ["/v2/models/{model}/versions/{version}/infer"]
    assert tab.complaints == []


@pytest.mark.smoke
async def test_request_is_sent_and_answered(http: Http, open_docs: OpenDocs) -> None:
    tab = await open_docs(http)
    await unfold(tab, "POST", "/v2/models/{model}/infer")
    await tab.run("document.querySelector('#it button.primary').click()")
    await tab.wait_for("document.querySelector('#it').innerText.includes('model is missing.')")
    await type_into(tab, "#it input", "digits")
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 2]}]}
    await type_into(tab, "#it textarea", json.dumps(body))
    status, text = await answer_of(tab)
    assert (status, json.loads(text)["outputs"][0]["data"]) == ("200", [0.5, 2.0])
    command = await tab.run("document.querySelector('#it pre').textContent")
    assert command.startswith("curl -X POST 'http://")
    assert "/v2/models/digits/infer'" in command
    await type_into(tab, "#it textarea", "{}")
    status, text = await answer_of(tab)
    assert (status, json.loads(text)["code"]) == ("400", "invalid_request")
    assert tab.complaints == [] or "400" in tab.complaints[0]


async def test_stream_is_shown_for_a_moment_and_what_bodies_hold(
    http: Http, open_docs: OpenDocs
) -> None:
    tab = await open_docs(http)
    await unfold(tab, "GET", "/v1/page/changes")
    status, text = await answer_of(tab)
    assert (status, text[:12]) == ("200", "event: reset")
    await unfold(tab, "POST", "/v2/models/{model}/infer")
    text = await tab.run("document.querySelector('#it').innerText")
    assert "timeout integer from 0" in text
    assert "The microseconds after which the answer is of no use any more." in text
    assert "deadline_exceeded" in text


async def test_page_takes_any_key_and_the_form_sends_the_one_that_is_typed(
    open_docs: OpenDocs,
) -> None:
    async with serving() as http:
        key = Key("abcdefgh", digest_of(KEY), "lab", Scope(verbs=(Verb.INFER,)))
        http.front.keys.ring.take([key], 0.0, 0.0)
        page = await http.client.get("/docs", headers={"Authorization": f"Bearer {KEY}"})
        assert (page.status, page.headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert (await http.client.get("/docs")).status == 401
    async with serving() as http:
        http.node("A")
        tab = await open_docs(http)
        http.front.keys.ring.take([key], 0.0, 0.0)
        await unfold(tab, "GET", "/v2")
        assert (await answer_of(tab))[0] == "401"
        await type_into(tab, "input[type=password]", KEY)
        assert (await answer_of(tab))[0] == "200"
        assert KEY not in await tab.run("document.body.innerText")


async def test_page_fits_a_phone_at_an_address_with_a_slash(
    http: Http, open_docs: OpenDocs
) -> None:
    tab = await open_docs(http, "docs/", width=390)
    assert await tab.run("location.pathname") == "/docs"
    await unfold(tab, "POST", "/v2/models/{model}/infer")
    assert await tab.run("document.documentElement.scrollWidth") <= 390
