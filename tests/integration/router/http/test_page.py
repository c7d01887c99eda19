"""The page's routes at the front of a real router core."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from fleet_fakes import hang, offer
from patience import until
from raw_http import GUARD_S, connected
from router_http import Http, serving

from capamesh.protocol.adverts import ModelOffer
from capamesh.router.http import page
from capamesh.router.page import feed
from capamesh.router.page.backlog import PIECE_BYTES

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
POLICY = "Content-Security-Policy"


@asynccontextmanager
async def events(
    http: Http, after: str = "", **headers: str
) -> AsyncIterator[aiohttp.StreamReader]:
    """Follow the stream of changes."""
    path = f"/v1/page/changes?after={after}"
    async with await http.client.get(path, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        assert reply.content_type == "text/event-stream"
        yield reply.content


async def next_event(content: aiohttp.StreamReader) -> tuple[str, Any]:
    lines = [(await content.readline()).decode().rstrip("\n")]
    while lines[-1]:
        lines.append((await content.readline()).decode().rstrip("\n"))
    fields = dict(line.split(": ", 1) for line in lines if line)
    return fields["event"], json.loads(fields["data"])


async def snapshot(http: Http) -> dict[str, Any]:
    reply = await http.client.get("/v1/page/snapshot")
    return dict(await reply.json())


async def test_browser_gets_the_page_and_others_the_routes() -> None:
    async with serving() as http:
        shown = await http.client.get("/", headers=BROWSER)
        assert shown.content_type == "text/html"
        assert shown.headers[POLICY].startswith("default-src 'none'; script-src 'self'; ")
        told = [shown.headers[name] for name in ("Vary", "X-Content-Type-Options")]
        assert told == ["Accept", "nosniff"]
        listed = await (await http.client.get("/")).json()
    routes = {(route["method"], route["path"]): route["does"] for route in listed["routes"]}
    assert routes["POST", "/v2/models/{model}/infer"] == "Run one inference."
    assert all(routes.values())
    assert len(routes) == len(listed["routes"])
    assert [path for _, path in routes if path.endswith("/")] == ["/"]
    assert {("GET", "/"), ("GET", "/metrics"), ("GET", "/v1/page/changes")} <= routes.keys()


async def test_files_of_the_page_are_kept_for_ever_by_their_digest(http: Http) -> None:
    text = await (await http.client.get("/", headers=BROWSER)).text()
    path = "/" + text.split('src="')[1].split('"')[0]
    script = await http.client.get(path)
    assert script.status == 200
    assert script.headers["Cache-Control"].endswith("immutable")
    assert script.headers["Content-Encoding"] == "gzip"
    plain = await http.client.get(path, headers={"Accept-Encoding": "identity"})
    assert await plain.read() == await script.read()
    others = (path.replace("/page/", "/page/0"), "/page/x/..%2f..%2f__init__.py", path + "x")
    for wrong in others:
        assert (await http.client.get(wrong)).status == 404, wrong


async def test_snapshot_and_changes_give_the_fleet_of_now(
    http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.node("a", hang)
    first = await snapshot(http)
    assert list(first["nodes"]) == ["a"]
    async with events(http, first["revision"]) as content:
        http.node("b", hang, models=(offer("n"),))
        event, changes = await next_event(content)
        told = (event, list(changes["nodes"]), list(changes["models"]))
        assert told == ("changes", ["b"], ["n/1"])
    # one who comes back goes on where it was
    async with events(http, "gone-1", **{"Last-Event-ID": first["revision"]}) as content:
        _, changes = await next_event(content)
        assert list(changes["nodes"]) == ["b"]
    monkeypatch.setattr(page, "STILL_EVERY_S", 0.0)
    async with events(http, (await snapshot(http))["revision"]) as content:
        assert await next_event(content) == ("still", {})


@pytest.mark.parametrize("after", ["", "other-1", "%00", "x" * 2000])
async def test_unknown_revision_begins_anew(http: Http, after: str) -> None:
    await snapshot(http)
    async with events(http, after) as content:
        assert await next_event(content) == ("reset", {})
        assert await content.read() == b""


async def test_too_many_viewers_are_told_so(http: Http) -> None:
    revision = (await snapshot(http))["revision"]
    async with AsyncExitStack() as stack:
        for _ in range(64):
            await stack.enter_async_context(events(http, revision))
        reply = await http.client.get("/v1/page/changes")
    assert (reply.status, reply.headers["X-Capamesh-Error"]) == (503, "overloaded")
    assert reply.headers["Retry-After"] == "10"
    assert "64 pages follow" in (await reply.json())["error"]


@asynccontextmanager
async def deaf_viewers(http: Http, revision: str, count: int) -> AsyncIterator[None]:
    """Have viewers follow the stream from a revision on, who never read a byte of it.

    The kernel takes few bytes in their place: the front has the others.
    """
    for server in http.front._servers:
        for listening in server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    path = f"/v1/page/changes?after={revision}"
    async with AsyncExitStack() as stack:
        for _ in range(count):
            opening = connected(http.client.port, receive_bytes=4096)
            deaf = (await stack.enter_async_context(opening)).transport
            deaf.pause_reading()
            deaf.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield


def many_models(name: str, count: int) -> tuple[ModelOffer, ...]:
    """Return models whose rows on the page have 600 bytes each."""
    return tuple(offer(f"{name}-{at}-{200 * 'x'}") for at in range(count))


async def test_viewer_that_reads_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "WRITE_S", 0.1)
    async with serving() as http:
        revision = (await snapshot(http))["revision"]
        async with deaf_viewers(http, revision, 1):
            await until(lambda: http.feed.viewers == 1)
            http.node("a", hang, models=many_models("a", 5000))
            await until(lambda: http.feed.viewers == 0)
        assert (
            http.feed.reader(revision) is not None
        )  # the frame is kept: it was not for want of it


async def test_thousand_viewers_that_read_nothing_hold_few_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "LEAST_PAUSE_S", 0.01)
    monkeypatch.setattr(feed, "PAUSE_FOR", 0)
    monkeypatch.setattr(feed, "BYTES_A_SECOND", 10**9)
    monkeypatch.setattr(page, "WRITE_S", 10 * GUARD_S)  # none is hung up on meanwhile
    async with serving() as http:
        begun = (await snapshot(http))["revision"]
        async with deaf_viewers(http, begun, 1000):
            await until(lambda: http.feed.viewers == feed.MOST_VIEWERS)
            most_bytes = 0
            for name in ("a", "b", "c", "d", "e"):
                revision = http.feed.revision
                http.node(name, hang, models=many_models(name, 2000))
                while http.feed.revision == revision:
                    most_bytes = max(most_bytes, http.front.budget.unread_bytes)
                    await asyncio.sleep(0)
            await http.settled()
            most_bytes = max(most_bytes, http.front.budget.unread_bytes)
            assert 0 < most_bytes <= feed.MOST_VIEWERS * 4 * PIECE_BYTES
            assert http.feed.viewers == feed.MOST_VIEWERS
            assert (await http.client.get("/v1/page/changes")).status == 503
        await until(lambda: http.feed.viewers == 0)
        async with events(http, begun) as content:
            assert await next_event(content) == ("reset", {})
        assert len((await snapshot(http))["nodes"]) == 5


async def test_viewer_that_falls_behind_between_frames_is_told_to_begin_anew(http: Http) -> None:
    revision = (await snapshot(http))["revision"]
    async with events(http, revision) as content:
        http.node("a", hang, models=many_models("a", 10_000))
        said = await content.read()
        assert said.endswith(b"event: reset\ndata: {}\n\n")  # no frame as large is kept
        assert b"changes" not in said


async def test_stream_ends_when_the_router_stops(http: Http) -> None:
    revision = (await snapshot(http))["revision"]
    async with events(http, revision) as content:
        http.front.requests.is_closing = True
        assert await content.read() == b""
        await http.front.requests.wait_none()


async def test_hostile_names_stay_inside_of_their_event() -> None:
    name = 'x"\\\n\nevent: reset\ndata: {}\n\n</script>'
    async with serving() as http:
        revision = (await snapshot(http))["revision"]
        http.node("a", hang, models=(offer(name),))
        async with events(http, revision) as content:
            event, changes = await next_event(content)
            assert event == "changes"
            assert list(changes["models"]) == [f"{name}/1"]


async def test_history_is_that_of_the_router_or_of_a_model(http: Http) -> None:
    found = await (await http.client.get("/v1/page/history?span=3600")).json()
    assert (found["model"], found["point_s"], len(found["series"]["nodes"])) == ("", 10.0, 360)
    unknown = await (await http.client.get("/v1/page/history?model=nobody&span=20")).json()
    assert unknown["series"]["requests_per_s"] == [None, None]
    for span in ("-1", "1e3", "x", "9" * 5000, "²"):
        reply = await http.client.get("/v1/page/history", params={"span": span})
        assert (reply.status, reply.headers["X-Capamesh-Error"]) == (400, "invalid_request")


async def test_history_is_packed_and_one_who_has_it_is_told_so() -> None:
    path = "/v1/page/history?span=3600"
    async with serving() as http:
        first = await http.client.get(path)
        assert first.headers["Content-Encoding"] == "gzip"
        plain = await http.client.get(path, headers={"Accept-Encoding": "identity"})
        assert "Content-Encoding" not in plain.headers
        assert await plain.read() == await first.read()
        tag = first.headers["ETag"]
        assert plain.headers["ETag"] == tag
        assert first.headers["Cache-Control"] == "no-cache"
        known_as = {tag: 304, f'"x", {tag}': 304, "*": 304, '"x"': 200, "junk": 200}
        for known, status in known_as.items():
            again = await http.client.get(path, headers={"If-None-Match": known})
            assert again.status == status, known
            assert (await again.read() == b"") == (status == 304)
        http.let_pass(10)
        http.history.sample()
        newer = await http.client.get(path, headers={"If-None-Match": tag})
        assert newer.status == 200
        assert newer.headers["ETag"] != tag


async def test_requests_that_failed_are_told_by_model_and_code_and_invented_names_as_one(
    http: Http,
) -> None:
    http.node("a", hang)
    await http.infer(b"junk")
    for name in ("x", "y"):
        await http.infer(b"{}", path=f"/v2/models/{name}/infer")
    found = (await (await http.client.get("/v1/requests")).json())["kinds"]
    told = [(each["model"], each["code"], each["count"], len(each["newest"])) for each in found]
    assert told == [("", "model_not_found", 2, 2), ("m", "invalid_request", 1, 1)]
    # one node is the same as in the list of all
    all_nodes = (await (await http.client.get("/v1/nodes")).json())["nodes"]
    assert [await (await http.client.get("/v1/nodes/a")).json()] == all_nodes
    assert (await http.client.get("/v1/nodes/b")).status == 404
