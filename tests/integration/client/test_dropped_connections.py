"""Both clients against servers that drop connections at every point of an exchange."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oip_servers import answer, read_request, reset

from capamesh.client import AsyncClient, asks
from capamesh.protocol.errors import DeadlineExceeded, LinkLost, ProtocolViolation, TooLarge

if TYPE_CHECKING:
    from oip_servers import ScriptedServer

Connect = Callable[..., Any]
Start = Callable[..., "ScriptedServer"]

MODELS = answer(b"[]")
REFUSAL = (
    b"HTTP/1.1 413 Too Large\r\nX-Capamesh-Error: too_large\r\nConnection: close\r\n"
    b'Content-Length: 27\r\n\r\n{"error": "the limit is 1"}'
)


def serve_one(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(MODELS)


def serve_one_and_close_on_the_next(connection: socket.socket) -> None:
    serve_one(connection)
    read_request(connection)


def serve_one_and_reset_on_the_next(connection: socket.socket) -> None:
    serve_one_and_close_on_the_next(connection)
    reset(connection)


def serve_one_and_half_of_the_next(connection: socket.socket) -> None:
    serve_one_and_close_on_the_next(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")


@pytest.mark.parametrize(
    "first", [serve_one, serve_one_and_close_on_the_next, serve_one_and_reset_on_the_next]
)
def test_connection_dropped_while_idle_is_replaced_once(
    scripted: Start, connect: Connect, first: Callable[[socket.socket], None]
) -> None:
    server = scripted(first, serve_one)
    client = connect(server.url)
    assert client.models() == []
    assert client.models() == []
    assert server.accepted == 2


def test_post_on_a_dropped_connection_is_sent_again_whole(
    scripted: Start, connect: Connect
) -> None:
    bodies: list[bytes] = []

    def keep_body(connection: socket.socket) -> None:
        bodies.append(read_request(connection))
        connection.sendall(answer(b'{"outputs": []}'))

    server = scripted(serve_one_and_close_on_the_next, keep_body)
    client = connect(server.url)
    assert client.models() == []
    large = np.zeros(300_000, np.uint8)
    assert client.infer("m", {"X": large}) == {}
    assert len(bodies[0]) > 300_000


def test_connection_dropped_twice_is_lost(scripted: Start, connect: Connect) -> None:
    server = scripted(serve_one_and_close_on_the_next, read_request, serve_one)
    client = connect(server.url)
    assert client.models() == []
    with pytest.raises(LinkLost, match=f"the connection to {server.url} ended before"):
        client.models()
    assert server.accepted == 2


def test_request_whose_answer_has_begun_is_not_sent_again(
    scripted: Start, connect: Connect
) -> None:
    server = scripted(serve_one_and_half_of_the_next, serve_one)
    client = connect(server.url)
    assert client.models() == []
    with pytest.raises((LinkLost, ProtocolViolation)):
        client.models()
    assert server.accepted == 1


@pytest.mark.parametrize("end", [lambda _: None, reset])
def test_new_connection_that_ends_without_an_answer_is_lost_at_once(
    scripted: Start, connect: Connect, end: Callable[[socket.socket], None]
) -> None:
    def read_and_end(connection: socket.socket) -> None:
        read_request(connection)
        end(connection)

    server = scripted(read_and_end, serve_one)
    with pytest.raises(LinkLost):
        connect(server.url).models()
    assert server.accepted == 1


def sending(data: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(data)

    return script


@pytest.mark.parametrize(
    ("sent", "kind", "said"),
    [
        (answer(b'{"nodes"', length=100), LinkLost, "before the answer was complete"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", ProtocolViolation, "does not answer as a router"),
        *(
            (answer(body), ProtocolViolation, "is this a router's URL")
            for body in (b"[1", b"[]", b'{"nodes": [1]}', b'{"nodes": {}}', b"[" * 10_000)
        ),
    ],
)
def test_answer_that_is_none_of_a_router_is_named(
    scripted: Start, connect: Connect, sent: bytes, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        connect(scripted(sending(sent)).url).nodes()


@pytest.mark.parametrize("length", [b"x", b"-1", b"999999"])
def test_wrong_length_of_the_json_part_is_a_violation(
    scripted: Start, connect: Connect, length: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: %b\r\nContent-Length: 14\r\n\r\n"
    client = connect(scripted(sending(head % length + b'{"outputs":[]}')).url)
    with pytest.raises(ProtocolViolation, match="malformed answer"):
        client.infer("m", {"X": np.ones(1)})


def test_answer_that_trickles_ends_at_the_deadline(
    scripted: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asks, "GRACE_S", 0.0)

    def trickle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(answer(b"", length=10_000))
        connection.settimeout(0.02)
        while True:  # until the client closes
            connection.sendall(b" ")
            try:
                if not connection.recv(1):
                    return
            except TimeoutError:
                continue

    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        connect(scripted(trickle).url).infer("m", {"X": np.ones(1)}, timeout_s=0.3)


def test_answer_in_chunks_without_a_length_is_read_to_its_end_and_its_limit(
    scripted: Start, connect: Connect
) -> None:
    def chunked(connection: socket.socket) -> None:
        for _ in range(2):
            read_request(connection)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1\r\n[\r\n1\r\n]\r\n0\r\n\r\n"
            )

    server = scripted(chunked)
    client = connect(server.url)
    assert client.models() == []
    assert client.models() == []
    assert server.accepted == 1


def test_answer_to_a_body_that_the_server_will_not_read_is_the_servers(
    scripted: Start, connect: Connect
) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(REFUSAL)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with pytest.raises(TooLarge, match="the limit is 1"):
        connect(scripted(refuse).url).infer("m", {"X": np.zeros(5_000_000, np.uint8)})


def test_refused_body_that_nobody_reads_does_not_outlive_the_client(scripted: Start) -> None:
    has_ended = threading.Event()

    def refuse_and_wait(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(REFUSAL)
        has_ended.wait(60)

    async def ask() -> None:
        async with AsyncClient(scripted(refuse_and_wait).url) as client:
            with pytest.raises(TooLarge, match="the limit is 1"):
                await client.infer("m", {"X": np.zeros(5_000_000, np.uint8)})

    asyncio.run(ask())
    has_ended.set()
    gc.collect()  # a transport that waits for its reader would be named here
