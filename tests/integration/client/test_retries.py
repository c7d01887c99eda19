"""Both clients at routers that refuse, break connections or cannot be reached: what is sent again, and when."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from oip_servers import answer, read_request, reset

from capamesh.client import Overloaded, Unreachable, async_client, sync_client

if TYPE_CHECKING:
    from oip_servers import ScriptedServer

Connect = Callable[..., Any]
Start = Callable[..., "ScriptedServer"]
ONE = {"X": np.ones(1, np.float32)}
ANSWER = answer(b'{"model_name": "m", "model_version": "1", "id": "r1", "outputs": []}')


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that clients wait for, which pass at once."""
    found: list[float] = []

    async def note(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(sync_client, "sleep", found.append)
    monkeypatch.setattr(async_client, "sleep", note)
    return found


class Router:
    """The scripts of a router's connections, and the bodies of the requests that it has read."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.parameters: list[dict[str, Any]] = []

    def _read(self, connection: socket.socket) -> None:
        body = read_request(connection)
        value, _ = json.JSONDecoder().raw_decode(body.decode("latin-1"))
        self.parameters.append(value.get("parameters", {}))

    def refuse(self, connection: socket.socket) -> None:
        self._read(connection)
        body = b'{"error": "the queue is full"}'
        connection.sendall(
            b"HTTP/1.1 503 Service Unavailable\r\nX-Capamesh-Error: overloaded\r\nRetry-After: 2\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    def run(self, connection: socket.socket) -> None:
        self._read(connection)
        connection.sendall(ANSWER)

    def cut(self, connection: socket.socket) -> None:
        self._read(connection)
        reset(connection)


def test_refusal_is_waited_out_with_what_is_left_of_the_deadline(
    scripted: Start, connect: Connect, waits: list[float]
) -> None:
    router = Router()
    server = scripted(router.refuse, router.refuse, router.run)
    outputs = connect(server.url).infer("m", ONE, timeout_s=30.0, id="r1")
    assert (outputs.timings.attempts, outputs.id, outputs.model) == (3, "r1", "m")
    assert all(2.0 <= wait_s <= 2.5 for wait_s in waits)
    timeouts_s = [each["timeout"] / 1e6 for each in router.parameters]
    assert timeouts_s[0] == 30.0
    assert 10.0 <= timeouts_s[1] <= 28.0
    # no time has passed here, so that the second wait begins where the first did
    assert 10.0 <= timeouts_s[2] <= 28.0


def test_refusals_are_the_caller_s_after_two_retries_or_where_there_is_no_time(
    scripted: Start, connect: Connect, waits: list[float]
) -> None:
    router = Router()
    server = scripted(*[router.refuse] * 5)
    with pytest.raises(Overloaded, match="the queue is full") as caught:
        connect(server.url).infer("m", ONE)
    assert caught.value.retry_after_s == 2.0
    assert len(waits) == 2
    with pytest.raises(Overloaded):
        connect(server.url).infer("m", ONE, timeout_s=1.5)
    with pytest.raises(Overloaded):
        connect(server.url, retries=0).infer("m", ONE)
    assert len(waits) == 2
    assert server.accepted == 5


def test_request_that_may_have_run_is_sent_again_with_its_idempotency_key_alone(
    scripted: Start, connect: Connect, waits: list[float]
) -> None:
    router = Router()
    server = scripted(router.cut, router.cut, router.run)
    client = connect(server.url)
    with pytest.raises(Exception, match="ended before the answer was complete"):
        client.infer("m", ONE)
    assert waits == []
    assert client.infer("m", ONE, idempotency_key="k1").timings.attempts == 2
    assert len(waits) == 1


def test_router_that_starts_meanwhile_is_reached(connect: Connect, waits: list[float]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # so that nobody else listens there meanwhile
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(Unreachable):
            connect(url).infer("m", ONE)
    assert [round(wait_s, 2) for wait_s in waits] == pytest.approx([0.1, 0.2], rel=0.3)


def test_pages_are_asked_for_once(scripted: Start, connect: Connect, waits: list[float]) -> None:
    server = scripted(refuse_page)
    with pytest.raises(Overloaded):
        connect(server.url).models()
    assert waits == []


def refuse_page(connection: socket.socket) -> None:
    read_request(connection)
    connection.sendall(
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n"
        b"Content-Length: 0\r\n\r\n"
    )
