"""Clients that come in by TLS: HTTP and gRPC on one port, certificates of both sides, and strangers who hold handshakes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
import uvloop
from certificates import Authority
from fleet_fakes import echo, hang
from patience import until
from raw_http import GUARD_S, LIVE, RawClient, connected
from router_http import INFER, Http
from tidy_router import KINDS, check, infer, of_kind, tidy
from tritonclient.grpc import aio as triton_aio
from ws_client import infer as infer_by_ws
from ws_client import streaming

from capamesh.client import AsyncClient, Client
from capamesh.protocol.errors import LinkLost
from capamesh.router.http import tls_door
from capamesh.router.http.limits import FrontLimits
from capamesh.router.http.tls_files import ServerTls

ROW = np.array([[1, 2]], np.float32)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def tls(authority: Authority) -> ServerTls:
    return ServerTls(authority.server(), time.time)


@pytest.fixture
async def http(tls: ServerTls) -> AsyncIterator[Http]:
    async with tidy(tls=tls) as http:
        yield http
        await left(http)


async def left(http: Http) -> None:
    """Wait until all clients are gone but aiohttp's, and see that nothing is held for them."""
    await http.client.session.close()
    await until(lambda: not len(http.front.connections) and not http.fleet.counts)
    assert (http.front.requests.count, http.front.budget.used_bytes) == (0, 0)
    await until(lambda: len(http.front._handshakes) == 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_request_of_each_kind_is_answered(
    http: Http, authority: Authority, kind: str
) -> None:
    http.node("a")
    trusting = authority.trusting()
    async with connected(http.client.port, tls=trusting) as client:
        for name in ("one", "two"):
            await client.send(of_kind(kind, name))
            check(await client.answer(), kind, name)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["h2", "http/1.1"], "http/1.1"),  # a browser, curl: HTTP/2 has gRPC alone here
        (["http/1.1"], "http/1.1"),
        (["h2"], "h2"),
        (["grpc-exp", "h2"], "h2"),
        (["spdy/3"], None),
        ([], None),
    ],
)
async def test_protocol_is_chosen_by_what_a_client_offers(
    http: Http, authority: Authority, offered: list[str], chosen: str | None
) -> None:
    trusting = authority.trusting()
    if offered:
        trusting.set_alpn_protocols(offered)
    async with connected(http.client.port, tls=trusting) as client:
        spoken = client.transport.get_extra_info("ssl_object")
        assert spoken.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_tls_are_spoken(
    http: Http, authority: Authority, version: ssl.TLSVersion
) -> None:
    trusting = authority.trusting()
    trusting.minimum_version = trusting.maximum_version = version
    async with connected(http.client.port, tls=trusting) as client:
        await client.send(LIVE)
        assert (await client.answer()).status == 200


async def test_version_that_is_too_old_is_refused(http: Http, authority: Authority) -> None:
    old = authority.trusting()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1_1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        async with connected(http.client.port, tls=old):
            pytest.fail("it is taken")
    await until(lambda: http.log.events != [])
    assert http.log.events == ["tls_refused"]
    http.log.events.clear()


async def test_triton_s_clients_come_in_by_tls(
    http: Http, authority: Authority, tmp_path: Path
) -> None:
    http.node("a", echo)
    rows = np.arange(400_000, dtype=np.float32).reshape(-1, 2)
    tensor = triton.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    address = f"localhost:{http.client.port}"
    async with triton_aio.InferenceServerClient(
        address, ssl=True, root_certificates=str(authority.file)
    ) as client:
        assert await client.is_server_ready()
        answer = await client.infer("m", [tensor])
        assert np.array_equal(answer.as_numpy("y"), rows)

    def by_http() -> Any:
        with triton_http.InferenceServerClient(
            address, ssl=True, ssl_options={"ca_certs": str(authority.file)}
        ) as client:
            plain = triton_http.InferInput("x", rows.shape, "FP32")
            plain.set_data_from_numpy(rows)
            return client.infer("m", [plain]).as_numpy("y")

    assert np.array_equal(await asyncio.to_thread(by_http), rows)


async def test_client_that_speaks_plain_http_is_told_to_use_tls(http: Http) -> None:
    async with connected(http.client.port) as client:
        await client.send(LIVE)
        (answer,) = await client.rest()
    assert (answer.status, answer.json()) == (
        400,
        {"error": "this port speaks TLS: use https://"},
    )
    http.log.events.clear()


async def test_client_that_is_refused_is_told_by_an_alert_and_the_log(
    authority: Authority, tmp_path: Path
) -> None:
    tls = ServerTls(authority.server(client_ca=authority.file), time.time)
    stranger = Authority(tmp_path / "elsewhere", "stranger")
    async with tidy(tls=tls) as http:
        for own in (None, stranger.issue("stranger")):
            async with connected(http.client.port, tls=authority.trusting(own=own)) as client:
                await client.send(LIVE)
                await client.ended()
                assert client.received == b""
        own = authority.issue("client")
        async with connected(http.client.port, tls=authority.trusting(own=own)) as client:
            await client.send(LIVE)
            assert (await client.answer()).status == 200
        channel = grpc.aio.secure_channel(
            f"localhost:{http.client.port}",
            grpc.ssl_channel_credentials(
                authority.file.read_bytes(), own[1].read_bytes(), own[0].read_bytes()
            ),
        )
        async with channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            assert await live(b"") == b"\x08\x01"
        assert http.log.events == ["tls_refused"] * 2
        http.log.events.clear()
        await left(http)


async def test_own_clients_show_a_certificate_and_are_told_where_they_lack_one(
    authority: Authority,
) -> None:
    tls = ServerTls(authority.server(client_ca=authority.file), time.time)
    own, rows = authority.issue("client"), {"x": ROW}
    async with tidy(tls=tls) as http:
        http.node("a")
        url = f"https://localhost:{http.client.port}"

        def by_threads(cert: tuple[Path, Path] | None) -> Any:
            with Client(url, ca=authority.file, cert=cert, retries=0) as client:
                streamed = [answer["y"].tolist() for answer in client.stream("m", [rows, rows])]
                return client.infer("m", rows).node, streamed

        async def by_asyncio(cert: tuple[Path, Path] | None) -> Any:
            async with AsyncClient(url, ca=authority.file, cert=cert, retries=0) as client:
                streamed = [each["y"].tolist() async for each in client.stream("m", [rows, rows])]
                return (await client.infer("m", rows)).node, streamed

        assert await asyncio.to_thread(by_threads, own) == ("a", [[[1, 2]]] * 2)
        assert await by_asyncio(own) == ("a", [[[1, 2]]] * 2)
        async with streaming(http, tls=authority.trusting(own=own)) as client:
            for name in ("a", "b"):
                client.send(infer_by_ws(name))
            client.send('{"end": true}')
            assert await client.end() == (1000, "")
            assert [each["id"] for each in client.messages] == ["a", "b"]
        assert http.log.events == []
        with pytest.raises(LinkLost, match="give one that the router's authority has signed"):
            await asyncio.to_thread(by_threads, None)
        with pytest.raises(LinkLost, match="give one that the router's authority has signed"):
            await by_asyncio(None)
        await until(lambda: len(http.front._handshakes) == 0)
        http.log.events.clear()
        await left(http)


async def test_next_client_sees_the_certificate_that_the_files_have_now(
    http: Http, tls: ServerTls, authority: Authority
) -> None:
    def shown(client: RawClient) -> bytes:
        certificate = client.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(certificate, bytes)
        return certificate

    trusting = authority.trusting()
    async with connected(http.client.port, tls=trusting) as before:
        for new, old in zip(
            authority.issue("next"), (tls.files.certificate, tls.files.key), strict=True
        ):
            new.replace(old)
        assert tls.look()
        async with connected(http.client.port, tls=trusting) as after:
            assert shown(before) != shown(after)
            for client in (before, after):
                await client.send(LIVE)
                assert (await client.answer()).status == 200


async def test_handshake_that_takes_too_long_is_given_up(
    tls: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_door, "PATIENCE_S", 0.05)
    async with tidy(tls=tls) as http:
        for said in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
            async with connected(http.client.port) as client:
                await client.send(said)
                await client.ended()
        await left(http)


async def test_strangers_who_hold_handshakes_keep_nobody_out(
    tls: ServerTls, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capamesh.router.http.handshakes.DAWDLES_AFTER_S", 0.05)
    async with tidy(tls=tls, front_limits=FrontLimits(connections=40)) as http:  # 10 handshakes
        held = [socket.create_connection(("127.0.0.1", http.client.port)) for _ in range(30)]
        await until(lambda: http.front._handshakes.turned_away >= 5)
        assert len(http.front._handshakes) <= 10
        async with connected(http.client.port, tls=authority.trusting()) as client:
            await client.send(LIVE)
            assert (await client.answer()).status == 200
        for each in held:
            each.close()
        await left(http)


async def test_handshakes_are_given_up_when_the_front_closes(tls: ServerTls) -> None:
    async with tidy(tls=tls) as http:
        async with connected(http.client.port) as client:
            await until(lambda: len(http.front._handshakes) == 1)
            http.front.close()
            await client.ended()
        await until(lambda: len(http.front._handshakes) == 0)


async def test_client_that_leaves_within_a_request_withdraws_it(
    http: Http, authority: Authority
) -> None:
    link = http.node("a", hang)
    for leave in (RawClient.leave, RawClient.reset):
        link.asked.clear()
        async with connected(http.client.port, tls=authority.trusting()) as client:
            await client.send(infer("one"))
            async with asyncio.timeout(GUARD_S):
                await link.asked.wait()
            leave(client)
            await until(lambda: not http.fleet.counts)
    assert len(link.withdrawn) == 2


async def test_client_that_does_not_hang_up_is_hung_up_on(
    tls: ServerTls, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_door, "LINGER_S", 0.05)

    def last_words(port: int) -> bytes:
        plain = socket.create_connection(("127.0.0.1", port))
        context = authority.trusting()
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(LIVE.replace(b"Host", b"Connection: close\r\nHost"))
            came = b""
            while data := client.recv(1 << 16):
                came += data
            client.setblocking(True)
            gone.wait(GUARD_S)  # without a goodbye of this side
            return came

    gone = threading.Event()
    async with tidy(tls=tls) as http:
        asked = asyncio.create_task(asyncio.to_thread(last_words, http.client.port))
        try:
            await until(lambda: len(http.front.connections) == 1)
            await until(lambda: len(http.front.connections) == 0)
        finally:
            gone.set()
        assert (await asked).startswith(b"HTTP/1.1 200 OK")


async def test_connection_over_the_limit_is_closed_behind_its_handshake(
    tls: ServerTls, authority: Authority
) -> None:
    async with tidy(tls=tls, front_limits=FrontLimits(connections=4)) as http:
        link = http.node("a", hang)
        async with AsyncExitStack() as stack:
            for _ in range(4):
                opening = connected(http.client.port, tls=authority.trusting())
                await (await stack.enter_async_context(opening)).send(infer("one"))
            await until(lambda: len(link.asks) == 4)
            async with connected(http.client.port, tls=authority.trusting()) as late:
                await late.ended()
        await left(http)


async def test_answers_come_over_a_front_that_uvloop_runs(authority: Authority) -> None:
    """The other tests run on asyncio's own loop."""

    def serve() -> int:
        async def main() -> int:
            tls = ServerTls(authority.server(), time.time)
            async with tidy(tls=tls) as http:
                http.node("a", echo)
                trusting = authority.trusting()
                connector = aiohttp.TCPConnector(ssl=trusting)
                url = f"https://127.0.0.1:{http.client.port}"
                async with aiohttp.ClientSession(url, connector=connector) as session:
                    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
                    answers = [await session.post(INFER, data=body) for _ in range(5)]
                    return sum(answer.status == 200 for answer in answers)

        return uvloop.run(main())

    assert await asyncio.to_thread(serve) == 5
