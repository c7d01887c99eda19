"""A burst: many requests at the same moment, each on a connection that is open. IO: HTTP/1.1 by hand, which costs the burst no time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import cast

LIMIT_S = 60.0
SHOWN_BYTES = 300
"""The bytes of a refusal that are shown."""


class Connection(asyncio.Protocol):
    """A connection that sends one request at a time, and keeps what comes back."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None
        self._reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if found and len(body) >= int(length or 0) and not self._reply.done():
            self._reply.set_result(bytes(self._data))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._reply.done():
            self._reply.set_result(f"HTTP/1.1 000 {exc}".encode())

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; the future is its reply, head and body."""
        self._data.clear()
        self._reply = asyncio.get_running_loop().create_future()
        assert self._transport is not None
        self._transport.write(request)
        return self._reply

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()


def request_of(timeout_s: float, policy: str = "") -> bytes:
    """Return the bytes of a request for one row of `digits` that allows so much time."""
    tensor = {"name": "X", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
    body = json.dumps({"parameters": {"timeout": round(timeout_s * 1e6)}, "inputs": [tensor]})
    named = f"X-Capamesh-Policy: {policy}\r\n" if policy else ""
    return (
        "POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"{named}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def connect(host: str, port: int, count: int) -> list[Connection]:
    """Return so many open connections."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Connection, host, port))[1] for _ in range(count)]


async def burst(connections: list[Connection], request: bytes) -> tuple[Counter[int], str]:
    """Send one request on each at once; return the statuses, and a reply that is no answer."""
    async with asyncio.timeout(LIMIT_S):
        replies = await asyncio.gather(*[each.ask(request) for each in connections])
    statuses = Counter(int(reply[9:12]) for reply in replies)
    refusal = next((reply for reply in replies if reply[9:12] != b"200"), b"")
    return statuses, refusal[-SHOWN_BYTES:].decode(errors="replace")
