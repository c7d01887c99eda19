"""The page at /docs in a real Chromium: it lists all routes, and sends requests to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio
from browser import Tab, browser, chromium_path
from page_fleets import troubled
from router_http import Http, serving

from capamesh.router.access.keys import Key, Scope, Verb, digest_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        chromium_path() is None, reason="no Chromium is installed (Debian: chromium-headless-shell)"
    ),
]
READY = "document.querySelectorAll('details.route').length > 0"
KEY = "cm_abcdefgh_" + 32 * "1"
OpenDocs = Callable[..., Coroutine[Any, Any, Tab]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[Http]:
    """A router that knows a fleet."""
    async with serving() as http:
        troubled(http.fleet)
        yield http


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def new_tab() -> AsyncIterator[Callable[[], Coroutine[Any, Any, Tab]]]:
    """Run a browser, and return what opens a tab in it."""
    async with browser(chromium_path() or "") as new_tab:
        yield new_tab


@pytest_asyncio.fixture(loop_scope="module")
async def open_docs(new_tab: Callable[[], Coroutine[Any, Any, Tab]]) -> AsyncIterator[OpenDocs]:
    """Return what opens the page on the routes of a router, and waits until it is there."""
    tabs: list[Tab] = []

    async def opened(http: Http, path: str = "docs", until: str = READY, width: int = 1280) -> Tab:
        tabs.append(tab := await new_tab())
        await tab.resize(width, 900, is_phone=width < 500)
        await tab.open(f"http://{http.client.host}:{http.client.port}/{path}")
        await tab.wait_for(until)
        return tab

    yield opened
    for tab in tabs:
        await tab.close()


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


async def test_stream_is_shown_for_a_moment(http: Http, open_docs: OpenDocs) -> None:
    tab = await open_docs(http)
    await unfold(tab, "GET", "/v1/page/changes")
    status, text = await answer_of(tab)
    assert status == "200"
    assert text.startswith("event: reset")


async def test_page_shows_what_bodies_hold(http: Http, open_docs: OpenDocs) -> None:
    tab = await open_docs(http)
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


async def test_address_with_a_slash_leads_to_the_page(http: Http, open_docs: OpenDocs) -> None:
    tab = await open_docs(http, "docs/")
    assert await tab.run("location.pathname") == "/docs"


async def test_page_fits_a_phone(http: Http, open_docs: OpenDocs) -> None:
    tab = await open_docs(http, width=390)
    await unfold(tab, "POST", "/v2/models/{model}/infer")
    assert await tab.run("document.documentElement.scrollWidth") <= 390
