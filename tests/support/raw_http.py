"""A client that sends the very bytes a test says, and reads HTTP/1.1 answers by h11."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11

from capamesh.simulation.sim_loop import SimLoop

GUARD_S = 60.0
"""What no answer takes: it only ends a test that hangs."""
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class HungUp(AssertionError):
    """The server has ended the connection before an answer was whole."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer: names of headers are in lower case, in the order in which they came."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def get(self, name: str) -> str | None:
        """Return the value of the only header of that name; None: there is none."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) < 2, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def is_last(self) -> bool:
        return (self.get("Connection") or "").lower() == "close"

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The text of an error in the protocol's form."""
        assert self.get("Content-Type") in {"application/json", "application/json; charset=utf-8"}
        body = self.json()
        code = self.get("X-Capamesh-Error")
        assert body.keys() == {"error", "code"}
        assert code in {None, body["code"]}  # HTTP's own refusals have no code in their head
        return str(body["error"])


def request(
    path: str | bytes,
    body: bytes = b"",
    *headers: bytes,
    method: bytes = b"POST",
    length: int | bytes | None = None,
) -> bytes:
    """Return a request with its body's length, `length` where given, after the other `headers`."""
    said = len(body) if length is None else length
    size = said if isinstance(said, bytes) else b"%d" % said
    return _head(method, path, *headers, b"Content-Length: " + size) + body


def chunked(path: str | bytes, body: bytes, *headers: bytes, size: int = 1 << 16) -> bytes:
    """Return the same request in chunks of at most `size` bytes."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    written = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""]]
    return _head(b"POST", path, *headers, b"Transfer-Encoding: chunked") + b"".join(written)


def _head(method: bytes, path: str | bytes, *headers: bytes) -> bytes:
    target = path if isinstance(path, bytes) else path.encode()
    return b"\r\n".join(
        (method + b" " + target + b" HTTP/1.1", b"Host: localhost", *headers, b"", b"")
    )


async def turns(count: int = 10) -> None:
    """Let this loop's server take what a socket of this machine holds for it."""
    for _ in range(count):
        await asyncio.sleep(0)


class RawClient(asyncio.Protocol):
    """One connection. `received` is what came and was not read yet."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.has_ended = False
        self.error: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._news = asyncio.Event()

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.has_ended = True
        self.error = exc
        self._news.set()

    async def send(self, *parts: bytes) -> None:
        """Send each part on its own: the server has taken one before the next is sent."""
        for part in parts:
            self.transport.write(part)
            await turns()

    async def answer(self, *, to: bytes = b"POST") -> RawAnswer:
        """Read the next answer; interim ones (1xx) count."""
        async with asyncio.timeout(GUARD_S):
            while True:
                if (found := _answer_in(self.received, to, is_whole=self.has_ended)) is not None:
                    answer, taken = found
                    del self.received[:taken]
                    return answer
                if self.has_ended:
                    raise HungUp(f"ended ({self.error}) after {bytes(self.received)!r}")
                await self._more()

    async def answers(self, count: int) -> list[RawAnswer]:
        return [await self.answer() for _ in range(count)]

    def so_far(self) -> list[RawAnswer]:
        answers = []
        while (found := _answer_in(self.received, b"POST", is_whole=self.has_ended)) is not None:
            answers.append(found[0])
            del self.received[: found[1]]
        return answers

    async def rest(self) -> list[RawAnswer]:
        """Read answers until the server hangs up, which it must."""
        await self.ended()
        answers = []
        while self.received:
            answers.append(await self.answer())
        return answers

    async def ended(self) -> None:
        async with asyncio.timeout(GUARD_S):
            while not self.has_ended:
                await self._more()

    async def _more(self) -> None:
        self._news.clear()
        await self._news.wait()

    def finish(self) -> None:
        """Send FIN: this side says no more, and could still read."""
        self.transport.write_eof()

    def leave(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


def plain_socket() -> socket.socket:
    """Return a socket that does not block, of the network that the running loop has."""
    loop = asyncio.get_running_loop()
    made = loop.network.socket() if isinstance(loop, SimLoop) else socket.socket()
    made.setblocking(False)
    return made


@asynccontextmanager
async def connected(
    port: int, *, receive_bytes: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawClient]:
    """Connect to a port of this machine, by `tls` where given.

    `receive_bytes` are what the system takes for a client that does not read.
    """
    raw = plain_socket()
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # pieces go out as they are sent
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", port))
    transport, client = await loop.create_connection(
        RawClient, sock=raw, ssl=tls, server_hostname=None if tls is None else "localhost"
    )
    try:
        yield client
    finally:
        transport.abort()
        await turns()


async def exchange(port: int, *parts: bytes) -> list[RawAnswer]:
    """Send the parts on a connection of their own and return all answers that come before it ends."""
    async with connected(port) as client:
        await client.send(*parts)
        return await client.rest()


async def ask(port: int, data: bytes, *, to: bytes = b"POST") -> RawAnswer:
    """Send a request on a connection of its own and return its answer."""
    async with connected(port) as client:
        await client.send(data)
        return await client.answer(to=to)


def statuses(answers: Iterable[RawAnswer]) -> list[int]:
    return [answer.status for answer in answers]


def _answer_in(data: bytearray, method: bytes, *, is_whole: bool) -> tuple[RawAnswer, int] | None:
    """Return the first answer and its bytes' number; None: more of it must come."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/", headers=[("Host", "localhost")]))
    reader.send(h11.EndOfMessage())
    if data:
        reader.receive_data(bytes(data))
    answer, framing, body = RawAnswer(0, (), b""), set[str](), b""
    while not isinstance(event := reader.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.InformationalResponse | h11.Response):
            headers = tuple(
                (name.decode(), value.decode("latin-1")) for name, value in event.headers
            )
            answer = RawAnswer(event.status_code, headers, b"")
            framing = {"content-length", "transfer-encoding"} & {name for name, _ in headers}
            assert len(framing) < 2, headers
            if answer.status < 200:
                break
        elif is_whole and answer.status and not framing:
            reader.receive_data(b"")  # its end is the connection's
        else:
            return None
    answer = dataclasses.replace(answer, body=bytes(body))
    return answer, len(data) - len(reader.trailing_data[0])
