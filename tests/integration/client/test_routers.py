"""Both clients' requests: the way that they name, numbers in lists, and routers that refuse, break connections or are away."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from oip_servers import OipServer, ScriptedServer, answer, read_request, reset

from capamesh.client import Overloaded, RoutingOptions, async_client, sync_client
from capamesh.protocol.errors import InvalidRequest, LinkLost, ShutOut

Connect = Callable[..., Any]
Start = Callable[..., ScriptedServer]
Script = Callable[[socket.socket], None]
ONE = {"X": np.ones((1, 2), np.float32)}


@pytest.fixture
def closed_url() -> Iterator[str]:
    """The URL of a port on which nobody listens, while the test has it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{nobody.getsockname()[1]}"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that clients wait for, which pass at once."""
    found: list[float] = []

    async def note(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(sync_client, "sleep", found.append)
    monkeypatch.setattr(async_client, "sleep", note)
    return found


def saying(data: bytes, heard: list[bytes] | None = None) -> Script:
    """Return a router that answers each request so, and keeps the bodies."""

    def script(connection: socket.socket) -> None:
        body = read_request(connection)
        if heard is not None:
            heard.append(body)
        connection.sendall(data)

    return script


def refusal(code: str, status: str = "503 Service Unavailable") -> bytes:
    body = b'{"error": "not me"}'
    head = f"X-Capamesh-Error: {code}\r\nRetry-After: 2\r\nContent-Length: {len(body)}"
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n{head}\r\n\r\n".encode() + body


def cut(connection: socket.socket) -> None:
    """Take the request and break the connection."""
    read_request(connection)
    reset(connection)


ANSWER = answer(b'{"model_name": "m", "model_version": "1", "id": "r1", "outputs": []}')


def wishes(server: OipServer) -> list[dict[str, str]]:
    """Return what routers are told beside each request."""
    return [{k: v for k, v in each.items() if k[:10] == "x-capamesh"} for each in server.headers]


def test_requests_way_is_asked_for_and_the_node_and_the_reason_are_reported(
    server: OipServer, connect: Connect
) -> None:
    client = connect(server.url, routing=RoutingOptions(tenant="acme"))
    outputs = client.infer("echo", ONE)
    assert wishes(server) == [{"x-capamesh-tenant": "acme"}]
    assert (outputs.node, outputs.version, outputs.explanation) == ("12D3KooWnode", "1", None)
    assert outputs.router == server.url
    options = RoutingOptions(regions=("eu", "us"), is_explained=True)
    outputs = client.infer("echo", ONE, routing=options)
    assert wishes(server)[1] == {"x-capamesh-region": "eu,us", "x-capamesh-explain": "1"}
    assert outputs.explanation == {"policy": "p2c", "replicas": []}


def test_numbers_in_lists_take_the_dtype_and_shape_of_the_models_input(
    server: OipServer, connect: Connect
) -> None:
    client = connect(server.url)
    for value in ([[1, 2]], [1, 2.0], ((np.float64(1), np.int8(2)),)):
        outputs = client.infer("echo", {"X": value})
        assert (outputs["X"].dtype, outputs["X"].tolist()) == (np.float32, [[1.0, 2.0]])
    for name, value, said in (
        ("X", [[1, 2, 3]], "shape"),
        ("X", [[1], [2, 3]], "rows differ in length"),
        ("X", [[1, "a"]], "X"),
        ("X", 5, "shape"),
        ("Z", [1, 2], "the model has no such input"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            client.infer("echo", {name: value})


def test_router_that_cannot_be_reached_or_serves_nobody_is_passed_over(
    server: OipServer, scripted: Start, connect: Connect, closed_url: str
) -> None:
    shut_out = scripted(saying(refusal("shut_out")))
    client = connect([closed_url, shut_out.url, server.url])
    for _ in range(2):  # and the one that answered is kept to
        assert client.infer("echo", ONE).router == server.url
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


def test_error_that_every_router_would_return_is_not_retried_and_others_are_all_named(
    server: OipServer, scripted: Start, connect: Connect, closed_url: str
) -> None:
    wrong = scripted(saying(refusal("invalid_request", "400 Bad Request")))
    shut_out = scripted(saying(refusal("shut_out")))
    with pytest.raises(InvalidRequest, match="not me"):
        connect([wrong.url, server.url]).infer("echo", ONE)
    assert server.asked == []
    with pytest.raises(ShutOut) as failed:
        connect([closed_url, shut_out.url]).infer("echo", ONE)
    assert failed.value.message.startswith(
        f"none of 2 routers could take it: cannot reach a router at {closed_url}: "
    )
    assert failed.value.message.endswith("; not me")


def test_refusal_is_waited_out_with_what_is_left_of_the_deadline(
    scripted: Start, connect: Connect, waits: list[float]
) -> None:
    heard: list[bytes] = []
    refused = saying(refusal("overloaded"), heard)
    server = scripted(refused, refused, saying(ANSWER, heard))
    outputs = connect(server.url).infer("m", ONE, timeout_s=30.0, id="r1")
    assert (outputs.timings.attempts, outputs.id, outputs.model) == (3, "r1", "m")
    assert all(2.0 <= wait_s <= 2.5 for wait_s in waits)
    asked = [json.JSONDecoder().raw_decode(body.decode("latin-1"))[0] for body in heard]
    timeouts_s = [each["parameters"]["timeout"] / 1e6 for each in asked]
    # no time has passed here, so that the second wait begins where the first did
    first_s, *later_s = timeouts_s
    assert (first_s, [10.0 <= each <= 28.0 for each in later_s]) == (30.0, [True, True])


def test_refusals_are_the_caller_s_after_two_retries_where_there_is_no_time_and_of_pages(
    scripted: Start, connect: Connect, waits: list[float]
) -> None:
    server = scripted(*[saying(refusal("overloaded"))] * 6)
    with pytest.raises(Overloaded, match="not me") as caught:
        connect(server.url).infer("m", ONE)
    assert (caught.value.retry_after_s, len(waits)) == (2.0, 2)
    with pytest.raises(Overloaded):
        connect(server.url).infer("m", ONE, timeout_s=1.5)
    with pytest.raises(Overloaded):
        connect(server.url, retries=0).infer("m", ONE)
    with pytest.raises(Overloaded):
        connect(server.url).models()
    assert (len(waits), server.accepted) == (2, 6)


def test_request_that_may_have_run_is_sent_again_with_its_idempotency_key_alone(
    scripted: Start, connect: Connect, waits: list[float]
) -> None:
    client = connect(scripted(cut, cut, saying(ANSWER)).url)
    with pytest.raises(LinkLost, match="ended before the answer was complete"):
        client.infer("m", ONE)
    assert waits == []
    assert client.infer("m", ONE, idempotency_key="k1").timings.attempts == 2
    assert len(waits) == 1
