"""The page in a real Chromium: what it shows, what it does, and whether everybody can use it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from browser import Tab
from fleet_fakes import answer_of, answering, linked, offer
from free_ports import free_port
from page_fleets import HOSTILE, join, large, peer_of
from router_http import Http, serving

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.fleet import Left
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.tensors import Datatype, Tensor, TensorSpec, join_elements
from capamesh.router.telemetry.tracing import AttemptTimes, RequestTimes

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "page-js"
VIEWS = (
    "fleet",
    "models",
    "model/digits",
    f"node/{peer_of(3)}",
    "request/digits",
    "links",
    "history",
    "routes",
)
TAB_KEY = ("Tab", 9)
ENTER_KEY = ("Enter", 13)

pytestmark = pytest.mark.asyncio(loop_scope="module")
OpenPage = Callable[..., Coroutine[Any, Any, Tab]]


@pytest.fixture
def open_page(opened: OpenPage) -> OpenPage:
    """Return what opens the page of a router at one view, and waits until it is live."""

    async def page(http: Http, view: str = "fleet", width: int = 1280) -> Tab:
        return await opened(http, f"#/{view}", "document.querySelector('.live.on') !== null", width)

    return page


async def text_of(tab: Tab, where: str = "main") -> str:
    return str(await tab.run(f"document.querySelector({where!r}).innerText"))


async def search(tab: Tab, text: str) -> None:
    """Type into the field by which rows are searched."""
    await tab.run(
        f"const f = document.querySelector('input[type=search]'); f.value = {text!r};"
        " f.dispatchEvent(new Event('input')); 0"
    )


async def until_count(tab: Tab, selector: str, count: str) -> None:
    """Wait until the page has so many of some elements, as "> 10" or "=== 1"."""
    await tab.wait_for(f"document.querySelectorAll('{selector}').length {count}")


async def test_fleet_shows_first_what_needs_attention(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http)
    await until_count(tab, ".attention li", "> 4")
    listed = await text_of(tab, ".attention")
    for word in ("unusable", "suspected", "ejected", "failing", "on the CPU"):
        assert word in listed.lower() or word in listed
    assert "the connection was refused" in listed
    assert "3 of its last 10 answers were wrong" in listed
    assert "model.onnx is not an ONNX file" in listed
    label = await tab.run("document.querySelector('canvas').getAttribute('aria-label')")
    assert label.startswith(
        "40 nodes: 36 usable, 1 suspected, recovering or lately failing, 2 not usable, 1 draining"
    )
    assert tab.complaints == []


@pytest.mark.smoke
async def test_page_follows_what_changes(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http, "links")
    await tab.wait_for("document.querySelector('main [role=status]').textContent === '40'")
    join(http.fleet, 99, ())
    await tab.wait_for("document.querySelector('main [role=status]').textContent === '41'")
    http.view.apply([Left(peer_of(99), "it said goodbye")])
    await tab.wait_for("document.querySelector('main [role=status]').textContent === '40'")


async def test_lost_node_and_the_models_short_of_it_come_first(
    http: Http, open_page: OpenPage
) -> None:
    lost, peer = http.parts.lost, peer_of(77)
    short = {
        (ModelName("digits"), ModelVersion("1")): 99,
        (ModelName("gone"), ModelVersion("1")): 1,
    }
    lost.lost(peer, HOSTILE, short, now_s=0.0, wall_ms=0)
    try:
        tab = await open_page(http)
        await tab.wait_for("document.querySelector('.attention li')?.innerText.includes('lost')")
        listed = await text_of(tab, ".attention")
        first = listed.splitlines()[:2]
        assert "lost" in first[0].lower()
        assert HOSTILE in " ".join(first)
        assert "no nodes have it ready, 1 had before" in listed
        assert await tab.run("document.querySelectorAll('main img').length") == 0
        await tab.run(f"location.hash = '#/node/{peer}'; 0")
        await tab.wait_for("document.querySelector('main').innerText.includes('1970-01-01')")
        assert tab.complaints == []
    finally:
        lost.forget(peer)


async def test_names_of_others_are_shown_and_never_run(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http, "models")
    await tab.wait_for(f"document.querySelector('main').innerText.includes({json.dumps(HOSTILE)})")
    await tab.run(
        f"[...document.querySelectorAll('a')].find((a) => a.textContent === {json.dumps(HOSTILE)}).click()"
    )
    await tab.wait_for(f"document.querySelector('h1').textContent === {json.dumps(HOSTILE)}")
    assert await tab.run("document.querySelectorAll('main img').length") == 0
    assert await tab.run("document.title") == f"{HOSTILE} · Capamesh"
    command = await tab.wait_for("document.querySelector('pre').textContent")
    assert command.startswith("curl 'http://")
    assert "<" not in command.split("\\")[0]


async def test_strict_policy_keeps_foreign_scripts_out(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http)
    await tab.run(
        "const s = document.createElement('script'); s.textContent = 'window.wasRun = true'; document.body.append(s); 0"
    )
    assert await tab.run("window.wasRun === undefined")
    assert len(tab.complaints) == 1
    assert "Content Security Policy" in tab.complaints[0]


async def test_sample_request_is_sent_and_its_answer_is_shown(
    http: Http, open_page: OpenPage
) -> None:
    tab = await open_page(http, "model/digits")
    await tab.wait_for("document.querySelector('button.primary')?.disabled === false")
    body = json.loads(await tab.run("document.querySelector('textarea').value"))
    assert body == {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 0.5]}]
    }
    await tab.run(
        "const t = document.querySelector('textarea'); t.value = t.value.replace('0.5,0.5', '0.5,0.25');"
        " document.querySelector('button.primary').click()"
    )
    await tab.wait_for("document.querySelector('main').innerText.includes('200 answered')")
    shown = await text_of(tab)
    answer = await tab.run("document.querySelector('pre[aria-label=Answer]').textContent")
    assert '"model_name": "digits"' in answer
    outputs = await tab.run("document.querySelector('table[aria-label=Outputs] tbody').innerText")
    assert outputs.split("\t") == ["y", "FP32 [1, 2]", "0.5, 0.25", "0.5 at index 0"]
    assert "Why this node" in shown
    assert await tab.run("document.querySelectorAll('details .badge.good').length") == 1
    await tab.run(
        "document.querySelector('textarea').value = '{}'; document.querySelector('button.primary').click()"
    )
    await tab.wait_for("document.querySelector('main').innerText.includes('400 refused')")


async def test_answer_of_a_model_with_labels_is_shown_with_them(open_page: OpenPage) -> None:
    texts = [f"0.875:7:{HOSTILE}", "0.125:1:a:b", "nan:0"]
    scores = Tensor("y", Datatype.BYTES, (1, 3), join_elements([text.encode() for text in texts]))
    spec = TensorSpec("y", Datatype.FP32, (-1, 10))
    async with serving() as http:
        endpoint = join(http.fleet, 1, (replace(offer("m"), outputs=(spec,), labelled=("y",)),))
        linked(endpoint, answering(answer_of("1", scores)))
        tab = await open_page(http, "model/m")
        await tab.wait_for("document.querySelector('button.primary')?.disabled === false")
        body = json.loads(await tab.run("document.querySelector('textarea').value"))
        assert body["outputs"] == [{"name": "y", "parameters": {"classification": 3}}]
        assert "The classes of y have names" in await text_of(tab)
        assert '"classification":3' in await tab.run("document.querySelector('pre').textContent")
        await tab.run("document.querySelector('button.primary').click()")
        await tab.wait_for("document.querySelector('main').innerText.includes('200 answered')")
        rows = await tab.run(
            "[...document.querySelectorAll('table[aria-label=\"Classes of y\"] tbody tr')].map((r) => r.innerText)"
        )
        assert [row.split("\t") for row in rows] == [
            [HOSTILE, "0.875", "7"],
            ["a:b", "0.125", "1"],
            ["\u2013", "NaN", "0"],
        ]
        assert await tab.run("document.querySelectorAll('main img').length") == 0
        assert tab.complaints == []


async def test_request_view_says_who_is_a_candidate_and_why_others_are_not(
    http: Http, open_page: OpenPage
) -> None:
    tab = await open_page(http, "request/digits")
    await until_count(tab, "tbody .badge.good", "=== 1")
    assert "not eligible" in await text_of(tab)
    assert await tab.run("document.querySelector('select').value") == "digits"


async def test_request_that_failed_is_shown_with_all_nodes_that_were_asked(
    http: Http, open_page: OpenPage
) -> None:
    answered = AttemptTimes(peer_of(1), "10.0.0.1:4100", 0.3, 1.4, "answered", 0.4, 0.5)
    lost = AttemptTimes(peer_of(2), "10.0.0.2:4100", 0.1, 0.3, f"link_lost: {HOSTILE}")
    http.ended.ended(RequestTimes("digits", "1", "ok", 0.0, 1.5, (lost, answered)))
    http.ended.failed("digits", Overloaded(f"full {HOSTILE}"))
    http.ended.ended(RequestTimes("digits", "", "overloaded", 0.0, 0.2))
    tab = await open_page(http, "request/digits")
    await until_count(tab, "details.kind", ">= 2")
    kinds = await tab.run(
        "[...document.querySelectorAll('details.kind summary')].map((s) => s.innerText)"
    )
    assert f"full {HOSTILE}" in next(kind for kind in kinds if kind.startswith("overloaded"))
    at = next(at for at, kind in enumerate(kinds) if kind.startswith("slow"))
    await tab.run(f"document.querySelectorAll('details.kind summary')[{at}].click()")
    await until_count(tab, ".waterfall", "=== 2")
    rows = await tab.run(
        "[...document.querySelectorAll('details[open] tbody tr')].map((r) => r.innerText)"
    )
    assert f"failed link_lost: {HOSTILE}" in rows[0]
    assert rows[1].split()[-1] == "answered"
    assert {"1.1", "400", "500"} <= set(rows[1].split())
    bars = "[...document.querySelectorAll('details[open] tr:nth-child(2) rect')].map((r) => [r.getAttribute('class'), r.getAttribute('x'), r.getAttribute('width')])"
    assert await tab.run(bars) == [
        ["sent", "20.00%", "73.33%"],
        ["queue", "26.67%", "26.67%"],
        ["run", "53.33%", "33.33%"],
    ]
    assert await tab.run("document.querySelectorAll('main img').length") == 0
    await tab.run("document.querySelector('details[open] tbody tr:nth-child(2) a').click()")
    await tab.wait_for(f"location.hash === '#/node/{peer_of(1)}'")


async def test_theme_follows_the_system_until_it_is_chosen(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http)
    await tab.prefer("dark")
    await tab.wait_for("document.documentElement.dataset.theme === 'dark'")
    await tab.run("document.getElementById('theme').click()")
    await tab.open(f"http://{http.client.host}:{http.client.port}/")
    await tab.wait_for("document.documentElement?.dataset.theme === 'light'")
    await tab.run("localStorage.clear()")


async def test_page_can_be_used_by_keys_alone(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http)
    for _ in range(3):
        await tab.press(*TAB_KEY)
    assert await tab.run("document.activeElement.textContent") == "Models"
    assert await tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    await tab.press(*ENTER_KEY)
    await tab.wait_for("document.querySelector('h1')?.textContent === 'Models'")
    assert await tab.run("document.activeElement.id") == "main"


@pytest.mark.parametrize("view", VIEWS)
async def test_view_fits_a_phone(http: Http, open_page: OpenPage, view: str) -> None:
    tab = await open_page(http, view, width=390)
    await tab.wait_for("document.querySelector('h1') !== null")
    assert await tab.run("document.documentElement.scrollWidth") <= 390


async def test_model_whose_files_are_contested_is_bad_where_none_is_served(
    open_page: OpenPage,
) -> None:
    async with serving() as http:
        tab = await open_page(http)
        kinds = await tab.run(
            "import(new URL('health.js', document.querySelector('script[type=module]').src)).then((health) =>"
            " [true, false].map((is_reached) => health.attention({ router: {}, nodes: new Map(), models: new Map("
            "[['m', { name: 'm', nodes_ready: 1, choice: 'why', is_reached }]]) })[0].kind))"
        )
    assert kinds == ["warn", "bad"]


async def test_attention_names_each_kind_of_trouble_and_makes_few_elements(
    open_page: OpenPage,
) -> None:
    async with serving() as http:
        large(http.fleet, 600, 1)
        for endpoint in http.endpoints[:500]:
            endpoint.link = None
        for endpoint in http.endpoints[500:503]:
            endpoint.is_suspected = True
        tab = await open_page(http)
        await until_count(tab, ".attention li", "=== 8")
        words = await tab.run(
            "[...document.querySelectorAll('.attention .badge')].map((b) => b.innerText)"
        )
        assert words == ["starting"] + ["unusable"] * 5 + ["suspected"] * 2
        more = "document.querySelector('.attention + button')"
        assert await tab.run(f"{more}.innerText") == "Show the first 200 of 504"
        await tab.run(f"{more}.click()")
        await until_count(tab, ".attention li", "=== 200")
        await tab.run(f"{more}.click()")
        await until_count(tab, ".attention li", "=== 8")


async def test_link_of_a_draining_node_is_no_trouble(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http, "links")
    await search(tab, "10.0.0.30:")
    await until_count(tab, "tr.row", "=== 1")
    assert await tab.run("document.querySelector('tr.row .badge').className") == "badge off"
    assert await tab.run("document.querySelector('tr.row .badge').innerText") == "draining"


async def test_page_says_when_the_router_is_gone_and_goes_on_when_it_is_back(
    open_page: OpenPage,
) -> None:
    # a port that no outgoing connection is given meanwhile
    async with serving(http_port=free_port()) as http:
        join(http.fleet, 1, ())
        tab = await open_page(http)
        await until_count(tab, "tr.row", "=== 1")
    await tab.wait_for("document.getElementById('live').textContent === 'reconnecting'")
    said = await text_of(tab, "#banner")
    assert said.startswith("The router does not answer. What is shown is of before")
    assert await tab.run("document.querySelectorAll('tr.row').length") == 1
    async with serving(http_port=http.client.port) as again:
        large(again.fleet, 3, 1)
        await until_count(tab, "tr.row", "=== 3")
        await tab.wait_for("document.getElementById('live').textContent === 'live'")
        assert await tab.run("document.getElementById('banner').className") == "banner hidden"


async def test_page_that_may_not_follow_is_read_anew_now_and_then(
    new_tab: Callable[[], Coroutine[Any, Any, Tab]],
) -> None:
    async with serving() as http, AsyncExitStack() as viewers:
        join(http.fleet, 1, ())
        for _ in range(64):
            viewers.enter_context(http.feed.following())
        tab = await new_tab()
        await tab.open(f"http://{http.client.host}:{http.client.port}/")
        await tab.wait_for("document.getElementById('live')?.textContent === 'every 15 s'")
        await until_count(tab, "tr.row", "=== 1")
        assert (await text_of(tab, "#banner")).startswith("The router lets no more pages follow it")
        await tab.close()


async def test_stream_that_is_silent_too_long_is_begun_anew(open_page: OpenPage) -> None:
    async with serving() as http:
        tab = await open_page(http)
        await tab.run("const now = Date.now.bind(Date); Date.now = () => now() + 60000; 0")
        await tab.wait_for(
            "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/snapshot')).length === 2"
        )
        await tab.wait_for("document.getElementById('live').textContent === 'live'")


@asynccontextmanager
async def proxy(http: Http, *, prefix: str = "", refused: str | None = None) -> AsyncIterator[str]:
    """Yield the address of a proxy before a router, under a prefix; paths that begin with `refused` need a key."""

    async def forward(request: web.Request) -> web.StreamResponse:
        path = request.path_qs.removeprefix(prefix)
        if refused is not None and path.startswith(refused):
            return web.Response(status=401, text="who are you?")
        kept = {key: value for key, value in request.headers.items() if key == "Accept"}
        async with http.client.session.get(
            path, headers=kept, timeout=aiohttp.ClientTimeout()
        ) as upstream:
            reply = web.StreamResponse(
                status=upstream.status, headers={"Content-Type": upstream.headers["Content-Type"]}
            )
            await reply.prepare(request)
            async for piece in upstream.content.iter_any():
                await reply.write(piece)
        return reply

    application = web.Application()
    application.router.add_get(prefix + "/{path:.*}", forward)
    runner = web.AppRunner(application, shutdown_timeout=0.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{prefix}/"
    finally:
        await runner.cleanup()


async def test_page_works_below_a_prefix(
    http: Http, new_tab: Callable[[], Coroutine[Any, Any, Tab]]
) -> None:
    async with proxy(http, prefix="/gpus") as url:
        tab = await new_tab()
        await tab.open(url + "#/model/digits")
        await tab.wait_for("document.querySelector('.live.on') !== null")
        await tab.wait_for("document.querySelector('button.primary')?.disabled === false")
        command = await tab.run("document.querySelector('pre').textContent")
        assert f"'{url}v2/models/digits/infer'" in command
        assert tab.complaints == []
        await tab.close()


async def test_page_says_that_something_asks_for_a_key(
    http: Http, new_tab: Callable[[], Coroutine[Any, Any, Tab]]
) -> None:
    async with proxy(http, refused="/v1/") as url:
        tab = await new_tab()
        await tab.open(url)
        await tab.wait_for("document.getElementById('live')?.textContent === 'not allowed'")
        assert (await text_of(tab, "#banner")).startswith(
            "Status 401: something before this router"
        )
        await tab.close()


async def test_router_without_nodes_tells_the_commands_that_add_one(open_page: OpenPage) -> None:
    async with serving() as http:
        tab = await open_page(http)
        await tab.wait_for("document.querySelector('.first:not(.hidden)') !== null")
        commands = await tab.run(
            "[...document.querySelectorAll('.first pre')].map((pre) => pre.textContent)"
        )
        assert commands[0] == "capamesh join TOKEN --models ./models"
        assert commands[1].startswith("capamesh node run --data ")
        assert "NaN" not in await text_of(tab)
        join(http.fleet, 1, ())
        await tab.wait_for("document.querySelector('.first.hidden') !== null")
        await until_count(tab, "tr.row", "=== 1")


async def test_models_have_a_command_to_copy_each(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http, "models")
    await until_count(tab, "td button", "> 5")
    await tab.run(
        "Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { window.copied = text; } } });"
        " [...document.querySelectorAll('td button')].find((b) => b.ariaLabel.endsWith(' digits')).click()"
    )
    copied = await tab.wait_for("window.copied")
    assert copied.startswith(
        f"curl 'http://{http.client.host}:{http.client.port}/v2/models/digits/"
    )
    await tab.wait_for("document.getElementById('told').textContent === 'Copied'")


async def test_sample_of_a_model_with_a_window_and_states_is_a_whole_sequence_of_one(
    http: Http, open_page: OpenPage
) -> None:
    tab = await open_page(http, "models")
    metadata = {
        "window": {"input": "X", "samples": 3, "context": 1, "constants": {"sr": 8000}},
        "inputs": [
            {"name": "X", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "sr", "datatype": "INT64", "shape": []},
        ],
    }
    module = "document.querySelector('script').src.replace('app.js', 'sample.js')"
    made = await tab.run(
        f"import({module}).then((it) => it.written(it.sampleOf({json.dumps(metadata)}, [], {{sequence_batching: {{}}}}).body))"
    )
    body = json.loads(made)
    assert [each["shape"] for each in body["inputs"]] == [[1, 4], []]
    assert body["inputs"][1]["data"] == [8000]
    parameters = {"sequence_id": 990001, "sequence_start": True, "sequence_end": True}
    assert body["parameters"] == parameters


async def test_keys_lead_to_views_and_the_help_tells_them(http: Http, open_page: OpenPage) -> None:
    tab = await open_page(http)
    await tab.type("2")
    await tab.wait_for("document.querySelector('h1')?.textContent === 'Models'")
    await tab.type("/")
    assert await tab.run("document.activeElement.type") == "search"
    await tab.type("4")
    assert await tab.run("document.activeElement.value") == "4"
    await tab.run("document.getElementById('main').focus()")
    await tab.type("?")
    await tab.wait_for("document.querySelector('dialog').open")
    await tab.run("document.querySelector('dialog input').click()")
    await tab.press("Escape", 27)
    await tab.wait_for("!document.querySelector('dialog').open")
    await tab.type("1")
    assert await tab.run("document.querySelector('h1').textContent") == "Models"
    await tab.run("localStorage.clear()")


@pytest.mark.parametrize("view", ["fleet", "models", "links", f"node/{peer_of(9)}", "history"])
async def test_hostile_names_make_no_element_in_any_view(
    http: Http, open_page: OpenPage, view: str
) -> None:
    tab = await open_page(http, view)
    await tab.wait_for("document.querySelector('h1') !== null")
    if view != "history":
        await search(tab, "onerror")
        await tab.wait_for(
            f"document.querySelector('main').innerText.includes({json.dumps(HOSTILE)})"
        )
    assert await tab.run("document.querySelectorAll('main img').length") == 0
    assert "broken in" not in str(await tab.run("document.title")).replace(HOSTILE, "")
    assert tab.complaints == []


async def test_ten_thousand_nodes_make_few_elements_and_are_usable_on_a_slow_phone(
    open_page: OpenPage,
) -> None:
    async with serving() as http:
        large(http.fleet, 10_000, 2)
        tab = await open_page(http, width=390)
        await tab.ask("Emulation.setCPUThrottlingRate", rate=4)
        await until_count(tab, "tr.row", "> 10")
        assert await tab.run("document.querySelectorAll('tr.row').length") < 60
        await tab.run("document.querySelectorAll('.scroll')[0].scrollTop = 300000; 0")
        await tab.wait_for("Number(document.querySelector('tr.row').dataset.at) > 5000")
        await search(tab, "004321")
        await until_count(tab, "tr.row", "=== 1")
        await tab.run("document.querySelector('tr.row a').click()")
        await tab.wait_for(f"location.hash === '#/node/{peer_of(4321)}'")
        await tab.wait_for("document.querySelector('h1').textContent.endsWith('-4321')")
        await tab.ask("Emulation.setCPUThrottlingRate", rate=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def axe() -> str:
    """Return axe-core, which npm installs by the lock file."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which installs axe-core, is not here")
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "js" / name, CACHE)
    script = CACHE / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        npm = await asyncio.create_subprocess_exec(
            *("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"),
            cwd=CACHE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(os.environ),
        )
        output, _ = await npm.communicate()
        if npm.returncode:
            pytest.skip(f"npm could not install axe-core: {output.decode(errors='replace')[-300:]}")
    return script.read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
async def test_axe_finds_nothing_to_mend(
    http: Http, open_page: OpenPage, axe: str, view: str, theme: str
) -> None:
    tab = await open_page(http, view)
    await tab.prefer(theme)
    await tab.wait_for(f"document.documentElement.dataset.theme === {theme!r}")
    await tab.wait_for("document.querySelector('h1') !== null")
    await tab.run(axe + ";0")
    found = await tab.run(
        "axe.run().then((r) => r.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 150)).join(' | ')}`))"
    )
    assert found == []
