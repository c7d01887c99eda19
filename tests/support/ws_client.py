"""A client of WebSocket that sends what a test says, broken frames too, and keeps what comes back."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from raw_http import GUARD_S
from router_http import Http
from scripted_client import ScriptedClient, all_given_back
from tidy_router import json_body
from wsproto.connection import Connection, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)

STREAM = "/v2/models/m/stream"
MASK = b"\x01\x02\x03\x04"


def head(path: str = STREAM, *lines: str, host: str = "localhost") -> bytes:
    fields = (
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *lines,
    )
    return "\r\n".join((f"GET {path} HTTP/1.1", *fields, "", "")).encode()


def frame(
    first: int, payload: bytes = b"", *, is_masked: bool = True, size: int | None = None
) -> bytes:
    """Return a frame; `size` is what it says of its length."""
    size = len(payload) if size is None else size
    bit = 0x80 if is_masked else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 2**16:
        head = bytes((first, bit | 126)) + struct.pack("!H", size)
    else:
        head = bytes((first, bit | 127)) + struct.pack("!Q", size)
    if not is_masked:
        return head + payload
    masked = bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))
    return head + MASK + masked


def infer(name: str = "", **changes: object) -> str:
    return json_body(name, **changes).decode()


class WsClient(ScriptedClient):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer, self._receive)
        self._frames = Connection(ConnectionType.CLIENT)
        self._parts: list[str | bytes] = []
        self.answer = b""
        """The answer to its request for a WebSocket, the body too where it was refused."""
        self.messages: list[Any] = []
        """What came: texts as what their JSON says, binary messages as bytes."""
        self.closed: tuple[int, str] | None = None
        """The code and the reason with which the router closed."""
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []

    @property
    def transport(self) -> asyncio.WriteTransport:
        return self._writer.transport

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ", 2)[1])

    def event(self, event: Event) -> None:
        self.raw(self._frames.send(event))

    def send(self, message: str | bytes, *, is_last: bool = True) -> None:
        kind = TextMessage if isinstance(message, str) else BytesMessage
        self.event(kind(data=message, message_finished=is_last))  # type: ignore[arg-type]

    def ping(self, payload: bytes = b"") -> None:
        self.event(Ping(payload))

    def close(self, code: int = 1000) -> None:
        self.event(CloseConnection(code))

    async def open(self, request: bytes) -> None:
        self.raw(request)
        async with asyncio.timeout(GUARD_S):
            self.answer = await self._reader.readuntil(b"\r\n\r\n")
            if self.status != 101:
                self.answer += await self._reader.read()

    def _receive(self, data: bytes) -> None:
        self._frames.receive_data(data)
        for event in self._frames.events():
            self._told(event)

    def _told(self, event: Event) -> None:
        match event:
            case TextMessage() | BytesMessage():
                self._parts.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    parts, self._parts = self._parts, []
                    is_text = isinstance(event, TextMessage)
                    whole = "".join(parts) if is_text else b"".join(parts)  # type: ignore[arg-type]
                    self.messages.append(json.loads(whole) if is_text else whole)
            case Ping():
                self.pings.append(bytes(event.payload))
            case Pong():
                self.pongs.append(bytes(event.payload))
            case CloseConnection():
                self.closed = int(event.code), event.reason or ""

    async def next(self) -> Any:
        await self.read_until(lambda: self.messages)
        return self.messages.pop(0)

    async def all(self, count: int) -> list[Any]:
        return [await self.next() for _ in range(count)]

    async def end(self) -> tuple[int, str] | None:
        """Read until the connection is closed; return how the router closed it."""
        await self.read_all()
        return self.closed


async def connected(
    http: Http,
    path: str = STREAM,
    *lines: str,
    before: Sequence[bytes] = (),
    tls: ssl.SSLContext | None = None,
) -> WsClient:
    """Return a client that has asked for a WebSocket, granted or not; `before` is sent in the same breath."""
    client = WsClient(*await asyncio.open_connection(http.client.host, http.client.port, ssl=tls))
    await client.open(head(path, *lines) + b"".join(before))
    return client


@asynccontextmanager
async def streaming(
    http: Http, path: str = STREAM, *lines: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[WsClient]:
    """Open a stream, and see at the end that nothing is held for it."""
    others = len(http.front.connections)
    client = await connected(http, path, *lines, tls=tls)
    try:
        assert client.status == 101, client.answer
        yield client
    finally:
        client.leave()
    await all_given_back(http, others)
