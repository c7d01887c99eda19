"""A client of a router over TCP in memory: one request a connection, and all that comes back. IO: the loop's connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a request."""

    status: int
    """The status; 0: the connection ended before a whole answer had come."""
    body: bytes
    extra: bytes = b""
    """The bytes behind the answer."""

    def json(self) -> Any:  # noqa: ANN401 - as it comes
        """Return the body as JSON."""
        return json.loads(self.body)


LOST = Answer(0, b"")


async def ask(
    address: str,
    port: int,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send a request and return the answer; a connection that breaks is `LOST`, whatever came before."""
    data = b"" if body is None else json.dumps(body).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    writer = None
    try:
        reader, writer = await asyncio.open_connection(address, port)
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: router\r\nConnection: close\r\n{head}"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        await writer.drain()
        raw = await reader.read()
    except OSError:
        return LOST
    finally:
        if writer is not None:
            writer.close()
    return parsed(raw)


def parsed(raw: bytes) -> Answer:
    """Return what the bytes of a connection that has ended say."""
    head, found, rest = raw.partition(b"\r\n\r\n")
    if not found:
        return LOST
    lines = head.decode("latin-1").split("\r\n")
    fields = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    status = int(lines[0].split(" ")[1])
    if fields.get("transfer-encoding") == "chunked":
        return _chunked(status, rest)
    size = int(fields.get("content-length", "0"))
    return LOST if len(rest) < size else Answer(status, rest[:size], rest[size:])


def _chunked(status: int, rest: bytes) -> Answer:
    body = b""
    while True:
        line, found, rest = rest.partition(b"\r\n")
        size = int(line, 16) if found else -1
        if size < 0 or len(rest) < size + 2:
            return LOST
        if not size:
            return Answer(status, body, rest[2:])
        body, rest = body + rest[:size], rest[size + 2 :]
