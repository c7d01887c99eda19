"""One call of gRPC with a scripted client, on the loop of the system or a simulated one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from grpc_attacker import connected
from http2_client import HEAD
from router_http import Http

from capamesh.router.grpc.methods import SERVICE


class Called(NamedTuple):
    status: int
    """The code of gRPC; 0: it went well."""
    said: str
    metadata: dict[str, str]
    messages: list[bytes]


async def call(
    http: Http, method: str, message: bytes, headers: Mapping[str, str] | None = None
) -> Called:
    fields = {**dict(HEAD), b":path": f"/{SERVICE}/{method}".encode()}
    fields |= {name.lower().encode(): of.encode() for name, of in (headers or {}).items()}
    client = await connected(http)
    body = b"\0" + len(message).to_bytes(4, "big") + message
    client.send(client.head(1, tuple(fields.items())), client.data(1, body, is_last=True))
    await client.read_until(lambda: b"grpc-status" in client.heads.get(1, [{}])[-1])
    client.leave()
    told = {name.decode(): of.decode() for head in client.heads[1] for name, of in head.items()}
    return Called(
        int(told["grpc-status"]),
        unquote(told.get("grpc-message", "")),
        told,
        _messages(client.bodies.get(1, b"")),
    )


def _messages(body: bytes) -> list[bytes]:
    found: list[bytes] = []
    while body:
        size = int.from_bytes(body[1:5], "big")
        found.append(body[5 : 5 + size])
        body = body[5 + size :]
    return found
