"""A server of HTTP that gives files by ranges, and does what bad ones do."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import override

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class RangeServer(ThreadingHTTPServer):
    """The files of one server, on a port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        """The path and the range of each request."""
        self.headers_of: Callable[[dict[str, str]], dict[str, str]] = lambda headers: headers
        """Changes the headers of an answer."""
        self.body_of: Callable[[bytes], bytes] = lambda body: body
        """Changes the body of an answer, whose length is told before."""
        self.statuses: list[int] = []
        """The statuses of the next answers, without a file."""
        self.location = ""
        """The place that a redirect leads to."""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that goes away."""


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer

    def do_GET(self) -> None:
        server = self.server
        server.asked.append((self.path, self.headers.get("Range", "")))
        if server.statuses:
            self._send(server.statuses.pop(0), {"Location": server.location}, b"")
            return
        data = server.files.get(self.path)
        if data is None:
            self._send(404, {}, b"")
            return
        etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        if self.headers.get("If-Match", etag) != etag:
            self._send(412, {}, b"")
            return
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        assert found is not None
        start, last = int(found[1]), min(int(found[2]), len(data) - 1)
        if start >= len(data):
            self._send(416, {"ETag": etag, "Content-Range": f"bytes */{len(data)}"}, b"")
            return
        span = {"ETag": etag, "Content-Range": f"bytes {start}-{last}/{len(data)}"}
        self._send(206, span, data[start : last + 1])

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        told = {**headers, "Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in self.server.headers_of(told).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.body_of(body))

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def range_server() -> Iterator[RangeServer]:
    """Run a server."""
    server = RangeServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
