"""The least that can stand behind a proxy: answers every request over HTTP/1.1 at once. IO: sockets.

    python benchmarks/peers/http_upstream.py ANSWERS [TLS]

ANSWERS is a file of JSON: for a part of a path, the answer's header fields and the file of its body. TLS is a folder
with ca.pem, server.pem and server.key: then only clients that the authority vouches for are let in. Prints its port.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import cast

import uvloop
from typing_extensions import override

BUFFER_BYTES = 1 << 20
"""More than any request: what has been read is thrown away with the request, not moved."""
END = b"\r\n\r\n"
LENGTH = b"\r\ncontent-length:"
ALIVE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
"""The answer to all that has no other, such as a look whether the server is alive."""


class Answering(asyncio.BufferedProtocol):
    """One connection: counts a request's bytes, looks at its path and answers."""

    def __init__(self, answers: list[tuple[bytes, bytes]]) -> None:
        self._answers = answers
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._missing = 0
        """Bytes of the request under way that have not come yet; 0: its head is not complete."""
        self._answer = b""
        self._transport: asyncio.Transport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._filled :] if not self._missing else self._view

    @override
    def buffer_updated(self, nbytes: int) -> None:
        if self._missing:
            self._missing -= nbytes
            if not self._missing:
                self._reply()
            return
        self._filled += nbytes
        end = self._buffer.find(END, 0, self._filled)
        if end < 0:
            return
        head = bytes(self._view[:end]).lower()
        at = head.find(LENGTH)
        length = int(head[at + len(LENGTH) :].partition(b"\r\n")[0]) if at >= 0 else 0
        self._missing = end + len(END) + length - self._filled
        self._filled = 0
        path = head.partition(b"\r\n")[0]
        self._answer = next((answer for part, answer in self._answers if part in path), ALIVE)
        if self._missing == 0:
            self._reply()
        elif self._missing < 0 and self._transport is not None:
            self._transport.abort()  # a client that does not wait for its answer is none of ours

    def _reply(self) -> None:
        if self._transport is not None:
            self._transport.write(self._answer)


def load(file: Path) -> list[tuple[bytes, bytes]]:
    """Return the bytes of each answer, head and body, by a part of the path."""
    return [
        (part.encode(), _response(entry["fields"], Path(entry["body"]).read_bytes()))
        for part, entry in json.loads(file.read_text()).items()
    ]


def _response(fields: dict[str, str], body: bytes) -> bytes:
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


def tls_of(folder: Path) -> ssl.SSLContext:
    """Return a server's side of TLS 1.3 with certificates on both sides, as a link has it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def serve(answers: list[tuple[bytes, bytes]], tls: ssl.SSLContext | None) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(answers), "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    """Read what to answer, and serve."""
    answers = load(Path(sys.argv[1]))
    uvloop.run(serve(answers, tls_of(Path(sys.argv[2])) if len(sys.argv) > 2 else None))


if __name__ == "__main__":
    main()
