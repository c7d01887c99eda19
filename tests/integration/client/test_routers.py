"""Requests that name their way, numbers in lists, and several routers of which some fail."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from oip_servers import OipServer, ScriptedServer, read_request, reset

from capamesh.client import RoutingOptions
from capamesh.protocol.errors import InvalidRequest, LinkLost, ShutOut

Connect = Callable[..., Any]
Start = Callable[..., ScriptedServer]
ONE = {"X": np.ones((1, 2), np.float32)}


@pytest.fixture
def closed_url() -> Iterator[str]:
    """The URL of a port on which nobody listens, while the test has it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{nobody.getsockname()[1]}"


def refuse(code: str, status: str = "503 Service Unavailable") -> Callable[[socket.socket], None]:
    """Return a router that answers each request with an error."""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        body = b'{"error": "not me"}'
        connection.sendall(
            f"HTTP/1.1 {status}\r\nX-Capamesh-Error: {code}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    return script


def cut(connection: socket.socket) -> None:
    """Take the request and break the connection."""
    read_request(connection)
    reset(connection)


def test_requests_way_is_asked_for_and_the_node_and_the_reason_are_reported(
    server: OipServer, connect: Connect
) -> None:
    client = connect(server.url, routing=RoutingOptions(tenant="acme"))
    outputs = client.infer("echo", ONE)
    assert server.wishes == [{"X-Capamesh-Tenant": "acme"}]
    assert (outputs.node, outputs.version, outputs.explanation) == ("12D3KooWnode", "1", None)
    assert outputs.router == server.url
    assert outputs["X"].tolist() == [[1.0, 1.0]]
    options = RoutingOptions(regions=("eu", "us"), is_explained=True)
    outputs = client.infer("echo", ONE, routing=options)
    assert server.wishes[1] == {"X-Capamesh-Region": "eu,us", "X-Capamesh-Explain": "1"}
    assert outputs.explanation == {"policy": "p2c", "replicas": []}


def test_numbers_in_lists_take_the_dtype_and_shape_of_the_models_input(
    server: OipServer, connect: Connect
) -> None:
    client = connect(server.url)
    for value in ([[1, 2]], [1, 2.0], ((np.float64(1), np.int8(2)),)):
        outputs = client.infer("echo", {"X": value})
        assert outputs["X"].dtype == np.float32
        assert outputs["X"].tolist() == [[1.0, 2.0]]
    for value, said in (
        ([[1, 2, 3]], "shape"),
        ([[1], [2, 3]], "rows differ in length"),
        ([[1, "a"]], "X"),
        (5, "shape"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            client.infer("echo", {"X": value})
    with pytest.raises(InvalidRequest, match="the model has no such input"):
        client.infer("echo", {"Z": [1, 2]})


def test_router_that_cannot_be_reached_or_serves_nobody_is_passed_over(
    server: OipServer, scripted: Start, connect: Connect, closed_url: str
) -> None:
    shut_out = scripted(refuse("shut_out"))
    client = connect([closed_url, shut_out.url, server.url])
    assert client.infer("echo", ONE).router == server.url
    assert shut_out.accepted == 1
    assert client.infer("echo", ONE).router == server.url  # and it is kept to
    assert shut_out.accepted == 1
    assert len(client.models()) == 2


def test_broken_connection_goes_to_the_next_router_but_not_within_a_sequence(
    server: OipServer, scripted: Start, connect: Connect
) -> None:
    first = scripted(cut, cut)
    assert connect([first.url, server.url]).infer("echo", ONE).router == server.url
    client = connect([first.url, server.url])
    with pytest.raises(LinkLost, match="the connection to"):
        client.infer("echo", ONE, parameters={"sequence_id": 7, "sequence_start": True})
    assert len(server.asked) == 1


def test_error_that_every_router_would_return_is_not_retried(
    server: OipServer, scripted: Start, connect: Connect
) -> None:
    wrong = scripted(refuse("invalid_request", "400 Bad Request"))
    with pytest.raises(InvalidRequest, match="not me"):
        connect([wrong.url, server.url]).infer("echo", ONE)
    assert server.asked == []


def test_error_names_the_reasons_of_all_routers_that_failed(
    scripted: Start, connect: Connect, closed_url: str
) -> None:
    shut_out = scripted(refuse("shut_out"))
    with pytest.raises(ShutOut) as failed:
        connect([closed_url, shut_out.url]).infer("echo", ONE)
    assert failed.value.message.startswith(
        f"none of 2 routers could take it: cannot reach a router at {closed_url}: "
    )
    assert failed.value.message.endswith("; not me")
