"""Streams over TLS (wss): encrypted both ways, and for those alone who show a certificate where the router asks for one."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import Authority
from fleet_fakes import hang
from patience import eventually
from raw_http import GUARD_S
from router_http import Http
from tidy_router import tidy
from ws_client import connected, infer, streaming

from capamesh.client import AsyncClient, Client
from capamesh.protocol.errors import LinkLost
from capamesh.router.http.tls_files import ServerTls

ROW = {"x": np.array([[1, 2]], np.float32)}
Own = tuple[Path, Path] | None


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def http(authority: Authority) -> AsyncIterator[Http]:
    """A router that asks its clients for certificates."""
    tls = ServerTls(authority.server(client_ca=authority.file), time.time)
    async with tidy(tls=tls) as http:
        yield http


async def test_client_with_a_certificate_has_a_stream(http: Http, authority: Authority) -> None:
    http.node("A")
    tls = authority.trusting(own=authority.issue("client"))
    async with streaming(http, tls=tls) as client:
        for name in ("a", "b"):
            client.send(infer(name))
        assert [(await client.next())["id"] for _ in range(2)] == ["a", "b"]
        client.send('{"end": true}')
        assert await client.end() == (1000, "")


async def test_client_that_leaves_withdraws_its_request(http: Http, authority: Authority) -> None:
    link = http.node("A", hang)
    tls = authority.trusting(own=authority.issue("client"))
    async with streaming(http, tls=tls) as client:
        client.send(infer("a"))
        async with asyncio.timeout(GUARD_S):
            await link.asked.wait()
            client.leave()
            await link.cancelled.wait()
    assert link.asks[0].ended == "withdrawn"


@pytest.mark.parametrize("is_strange", [True, False])
async def test_client_without_one_of_the_authority_is_refused(
    http: Http, authority: Authority, tmp_path: Path, is_strange: bool
) -> None:
    stranger = Authority(tmp_path / "elsewhere", "stranger").issue("stranger")
    tls = authority.trusting(own=stranger if is_strange else None)
    # by TLS 1.3 a client learns only when it reads that its certificate was not taken
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await connected(http, tls=tls)
    await eventually(lambda: http.log.events == ["tls_refused"], "the log does not tell")
    http.log.events.clear()


async def test_plain_request_for_a_stream_gets_none(authority: Authority) -> None:
    async with tidy(tls=ServerTls(authority.server(), time.time)) as http:
        http.node("A")
        client = await connected(http)
        assert client.status == 400
        client.leave()
        assert http.log.events == ["tls_refused"]
        http.log.events.clear()


async def test_own_clients_stream_with_their_certificate_and_are_told_where_they_lack_one(
    http: Http, authority: Authority
) -> None:
    http.node("A")
    url = f"https://localhost:{http.client.port}"

    def by_threads(cert: Own) -> list[Any]:
        with Client(url, ca=authority.file, cert=cert, retries=0) as client:
            return [answer["y"].tolist() for answer in client.stream("m", [ROW, ROW])]

    async def by_asyncio(cert: Own) -> list[Any]:
        async with AsyncClient(url, ca=authority.file, cert=cert, retries=0) as client:
            return [answer["y"].tolist() async for answer in client.stream("m", [ROW, ROW])]

    own = authority.issue("client")
    assert await asyncio.to_thread(by_threads, own) == [[[1, 2]]] * 2
    assert await by_asyncio(own) == [[[1, 2]]] * 2
    assert http.log.events == []
    with pytest.raises(LinkLost, match="give one that the router's authority has signed"):
        await asyncio.to_thread(by_threads, None)
    with pytest.raises(LinkLost, match="give one that the router's authority has signed"):
        await by_asyncio(None)
    await eventually(lambda: not len(http.front._handshakes), "a handshake is under way")
    http.log.events.clear()
