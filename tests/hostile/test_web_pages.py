"""Pages of strangers in a browser on the router's machine: they neither use, read nor delete anything of a router without keys."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from browser import browser, chromium_path
from hostile import AttackedNetwork, attacked
from ws_client import head

EVIL, APP = "evil.example", "app.example"
INFER = "/v2/models/digits/infer"
ROWS = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}]}
REBOUND = {"Host": f"{EVIL}:8000"}
CROSS_SITE = {"Origin": f"https://{EVIL}", "Sec-Fetch-Site": "cross-site"}
TRIES = """
(async () => {
  const router = "ROUTER", told = {};
  const ask = async (name, path, options) => {
    try {
      const answer = await fetch(router + path, options);
      told[name] = answer.type === "opaque" ? "opaque" : answer.status;
    } catch { told[name] = "failed"; }
  };
  const form = new FormData();
  form.append("purpose", "user_data");
  form.append("file", new Blob(["a page's"]), "a.txt");
  const rows = JSON.stringify(ROWS);
  await ask("text", "/v2/models/digits/infer", {method: "POST", mode: "no-cors", body: rows});
  await ask("upload", "/v1/files", {method: "POST", mode: "no-cors", body: form});
  await ask("delete", "/v1/files/FILE", {method: "DELETE"});
  await ask("json", "/v2/models/digits/infer", {method: "POST", body: rows, headers: {"Content-Type": "application/json"}});
  await ask("read", "/v1/nodes", {});
  told.socket = await new Promise(done => {
    const socket = new WebSocket(router.replace("http", "ws") + "/v2/models/digits/stream");
    socket.onopen = () => done("open");
    socket.onerror = () => done("failed");
  });
  return JSON.stringify(told);
})()
"""


def form() -> aiohttp.FormData:
    made = aiohttp.FormData()
    made.add_field("purpose", "user_data")
    made.add_field("file", b"the owner's", filename="mine.txt")
    return made


async def uploaded(session: aiohttp.ClientSession) -> str:
    """Upload a file as its owner, and return its id."""
    async with session.post("/v1/files", data=form()) as reply:
        return str((await reply.json())["id"])


async def files_of(session: aiohttp.ClientSession) -> list[str]:
    async with session.get("/v1/files") as reply:
        return [file["id"] for file in (await reply.json())["data"]]


async def asked_over_grpc(network: AttackedNetwork, authority: str) -> str:
    host, port = network.address
    options = (("grpc.default_authority", authority),)
    async with grpc.aio.insecure_channel(f"{host}:{port}", options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")(b"")
        return str((await call.code()).name)


async def opened(network: AttackedNetwork, host: str, *lines: str) -> int:
    """Ask for a WebSocket, and return the status."""
    reader, writer = await asyncio.open_connection(*network.address)
    writer.write(head("/v2/models/digits/stream", *lines, host=host))
    status = int((await reader.readline()).split()[1])
    writer.transport.abort()
    return status


@pytest.mark.smoke
async def test_requests_in_a_browsers_shoes_are_refused_on_every_wire(
    tmp_path: Path, sample_models: Path
) -> None:
    async with (
        attacked(tmp_path, sample_models, nodes=1) as network,
        aiohttp.ClientSession(network.http_url) as session,
    ):
        mine = await uploaded(session)
        async with network.honest(connections=2) as seen:
            for headers in (
                REBOUND,
                CROSS_SITE,
                {"Origin": "null"},
                {**REBOUND, "Sec-Fetch-Site": "same-origin"},
                {"Host": socket.gethostname()},  # on loopback: the network may have given any
            ):
                text = {**headers, "Content-Type": "text/plain"}
                for method, path, sent in (
                    ("POST", INFER, {"data": json.dumps(ROWS), "headers": text}),
                    ("POST", INFER, {"json": ROWS, "headers": headers}),
                    ("POST", "/v1/jobs", {"data": "{}", "headers": text}),
                    ("POST", "/v1/chat/completions", {"data": "{}", "headers": text}),
                    ("POST", "/v1/files", {"data": form(), "headers": headers}),
                    ("GET", f"/v1/files/{mine}/content", {"headers": headers}),
                    ("DELETE", f"/v1/files/{mine}", {"headers": headers}),
                    ("DELETE", "/v1/nodes/local-1", {"headers": headers}),
                    ("POST", "/login", {"data": {"key": "a page's"}, "headers": headers}),
                    ("POST", "/logout", {"headers": headers}),
                    ("GET", "/v1/nodes", {"headers": headers}),
                    ("GET", "/metrics", {"headers": headers}),
                    ("GET", "/v1/requests", {"headers": headers}),
                    ("GET", "/v1/page/snapshot", {"headers": headers}),
                    ("GET", "/", {"headers": headers}),
                ):  # fmt: skip
                    async with session.request(method, path, **sent) as reply:
                        assert (method, path, headers, reply.status) == (method, path, headers, 403)
            assert await opened(network, EVIL) == 403
            assert await opened(network, "127.0.0.1", f"Origin: https://{EVIL}") == 403
            assert await asked_over_grpc(network, EVIL) == "PERMISSION_DENIED"
            assert await asked_over_grpc(network, "localhost") == "OK"
        assert await files_of(session) == [mine]
        assert seen.failures == []


@asynccontextmanager
async def site() -> AsyncIterator[int]:
    """Serve an empty page, and return its port."""
    application = web.Application()

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<title>a page</title>", content_type="text/html")

    application.router.add_get("/", page)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@pytest.mark.skipif(
    chromium_path() is None, reason="no Chromium is installed (Debian: chromium-headless-shell)"
)
async def test_pages_in_a_browser_do_nothing_unless_their_origin_is_allowed(
    tmp_path: Path, sample_models: Path
) -> None:
    names = f"--host-resolver-rules=MAP {EVIL} 127.0.0.1, MAP {APP} 127.0.0.1"
    async with site() as port:
        allowed = ("--allow-origin", f"http://{APP}:{port}")
        async with (
            attacked(tmp_path, sample_models, nodes=1, router_options=allowed) as network,
            aiohttp.ClientSession(network.http_url) as session,
            browser(chromium_path() or "", names) as new_tab,
        ):
            mine = await uploaded(session)

            async def tried(page: str, router: str) -> dict[str, Any]:
                tab = await new_tab()
                await tab.open(page)
                await tab.wait_for("document.readyState === 'complete'")
                script = TRIES.replace("ROUTER", router).replace("ROWS", json.dumps(ROWS))
                return dict(json.loads(await tab.run(script.replace("FILE", mine))))

            refused = {"text": "opaque", "upload": "opaque", "delete": "failed", "json": "failed"}
            told = await tried(f"http://{EVIL}:{port}/", network.http_url)
            assert told == {**refused, "read": "failed", "socket": "failed"}
            rebound = f"http://{EVIL}:{network.address[1]}"
            told = await tried(f"{rebound}/", rebound)
            assert set(told.values()) == {403, "failed"}
            assert [name for name, status in told.items() if status != 403] == ["socket"]
            assert await files_of(session) == [mine]
            told = await tried(f"{network.http_url}/", network.http_url)  # the router's own page
            assert {told["json"], told["read"], told["delete"]} == {200}
            told = await tried(f"http://{APP}:{port}/", network.http_url)
            assert {told["json"], told["read"]} == {200}
            assert told["delete"] == 404
