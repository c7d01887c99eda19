"""Servers for the clients to talk to: one that speaks the protocol, one that does what a script says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from aiohttp import web
from patience import LIMIT_S
from threaded_server import Handler, application_of, refusal

from capamesh.protocol.oip import (
    HEADER_LENGTH_NAME,
    InferRequest,
    InferResponse,
    decode_request,
    encode_response,
    index_entry,
    model_metadata_body,
    parse_header_length,
)
from capamesh.protocol.oip.metadata import IndexState
from capamesh.protocol.tensors import Datatype, TensorSpec

INDEX = [
    index_entry("echo", "1", IndexState.READY),
    index_entry("echo", "2", IndexState.UNAVAILABLE, reason="no memory"),
]


class OipServer:
    """Speaks the protocol: `echo` answers its inputs, `fails` an error, `slow` never."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[InferRequest] = []
        self.paths: list[str] = []
        self.revocations: list[bytes] = []
        self.failure: tuple[int, dict[str, str], bytes] = (500, {}, b"")
        self.connections: set[tuple[str, int]] = set()
        self.headers: list[dict[str, str]] = []
        """The headers of each inference, by their names in small letters."""

    def application(self) -> web.Application:
        models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        return application_of(
            *((f"POST {model}/infer", self.infer) for model in models),
            *((f"GET {model}", self.metadata) for model in models),
            *((f"GET {model}/ready", self.model_ready) for model in models),
            ("GET /v2/health/ready", answering({"ready": True})),
            ("POST /v2/repository/index", answering(INDEX)),
            ("GET /v1/nodes", answering({"nodes": [{"peer_id": "12D3KooW"}]})),
            ("POST /v1/revocations", self.revoke),
        )

    async def infer(self, request: web.Request) -> web.Response:
        self.connections.add(request.transport.get_extra_info("peername"))
        self.paths.append(request.raw_path)
        match request.match_info["model"]:
            case "fails":
                status, headers, body = self.failure
                return web.Response(status=status, headers=headers, body=body)
            case "slow":
                await asyncio.sleep(60)
        body = await request.read()
        length = parse_header_length(request.headers.get(HEADER_LENGTH_NAME))
        asked = decode_request(
            request.match_info["model"], request.match_info.get("version", ""), body, length
        )
        self.asked.append(asked)
        self.headers.append({name.lower(): text for name, text in request.headers.items()})
        answer = InferResponse(asked.model, "1", asked.id, asked.inputs)
        buffers, json_bytes = encode_response(answer, asked)
        headers = {} if json_bytes is None else {HEADER_LENGTH_NAME: str(json_bytes)}
        headers["X-Capamesh-Node"] = "12D3KooWnode"
        if request.headers.get("X-Capamesh-Explain") == "1":
            headers["X-Capamesh-Explanation"] = '{"policy": "p2c", "replicas": []}'
        return web.Response(body=b"".join(buffers), headers=headers)

    async def metadata(self, request: web.Request) -> Any:
        if request.match_info["model"] == "absent":
            return refusal(404, "model_not_found", "no node hosts model 'absent'")
        x, y = TensorSpec("X", Datatype.FP32, (-1, 2)), TensorSpec("Y", Datatype.INT64, (-1,))
        return model_metadata_body("echo", ["1", "2"], [x], [y])

    async def model_ready(self, request: web.Request) -> Any:
        return {"echo": 200, "absent": 404}.get(request.match_info["model"], 503), {}, {}

    async def revoke(self, request: web.Request) -> Any:
        self.revocations.append(await request.read())
        return {"version": 7}


def answering(body: Any) -> Handler:
    async def handler(_: web.Request) -> Any:
        return body

    return handler


Script = Callable[[socket.socket], None]
"""What a scripted server does on one connection."""


class ScriptedServer:
    """Does on its n-th connection what the n-th script says, whatever HTTP thinks of it."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(60)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for script in self._scripts:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(60)
                script(connection)

    def close(self) -> None:
        # A connection of our own wakes the thread if it still waits for one.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(LIMIT_S)


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return body


def answer(body: bytes, *, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body) if length is None else length,
        body,
    )


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
