"""Files of HTTP servers are read by ranges, whatever the server does, and no server leads a router into its own network."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typing_extensions import override

from capamesh.router.jobs.errors import InputChanged, InputInvalid, PlaceUnavailable
from capamesh.router.jobs.inputs import ranges
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.remote import http_folder
from capamesh.router.jobs.remote.files import RemoteFile, RemoteSink
from capamesh.router.jobs.remote.http_folder import HttpFolder, names_inner
from capamesh.router.jobs.remote.urls import RemoteUrl, remote_url
from capamesh.router.jobs.values import JobId

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
        self.body_of: Callable[[bytes], bytes] = lambda body: body
        """They change an answer, whose length is told before."""
        self.statuses: list[int] = []
        """The statuses of the next answers, without a file."""
        self.location = ""
        """The place that a redirect leads to."""
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

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


LINES = b"".join(b'{"v": %d}\n' % at for at in range(1000))


def at_once(url: RemoteUrl) -> HttpFolder:
    """Return a folder that rests no time between tries."""
    return HttpFolder(url, sleep=lambda _seconds: None)


def file_of(url: str) -> RemoteFile:
    return RemoteFile(remote_url(url), at_once)


@pytest.fixture
def server() -> Iterator[RangeServer]:
    server = RangeServer()
    server.files["/sets/in.jsonl"] = LINES
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def values_of(source: RemoteFile) -> list[int]:
    reader = JsonlReader(source)
    return [
        value
        for each in reader.ranges(ShardLimits(300))
        for window in reader.windows(each, ["v"])
        for value in window.columns["v"]
    ]


def test_input_is_read_by_ranges_from_the_path_as_it_was_written(server: RangeServer) -> None:
    assert values_of(file_of(f"{server.url}/sets/in.jsonl")) == list(range(1000))
    assert all(each.startswith("bytes=") for _, each in server.asked)
    server.files |= {"/none.jsonl": b"", "/a%20b/%C3%A9.jsonl": b"x"}
    assert values_of(file_of(f"{server.url}/none.jsonl")) == []
    assert file_of(f"{server.url}/a%20b/é.jsonl").stamp().size_bytes == 1


def test_changed_file_is_not_mixed(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "LEAST_BYTES", 100)
    source = file_of(f"{server.url}/sets/in.jsonl")
    file, stamp = source.open()
    file.read(10)
    server.files["/sets/in.jsonl"] = LINES.replace(b"999", b"998")
    file.seek(5000)
    with pytest.raises(InputChanged, match="submit a new job"):
        file.read(10)
    with pytest.raises(InputChanged):
        source.check(stamp)


def test_server_that_fails_for_a_while_is_asked_again(server: RangeServer) -> None:
    server.statuses = [503, 502, 429]
    assert file_of(f"{server.url}/sets/in.jsonl").stamp().size_bytes == len(LINES)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (503, PlaceUnavailable, "the server answered 503"),
        (404, InputInvalid, "is not there"),
        (403, InputInvalid, "may not be read: the server answered 403"),
        (302, InputInvalid, "answered 302, which is not followed"),
        (200, InputInvalid, "not given in ranges"),
        (400, InputInvalid, "the server answered 400"),
    ],
)
def test_refusal_is_told_and_only_what_may_pass_is_tried_again(
    server: RangeServer, status: int, kind: type[Exception], words: str
) -> None:
    server.statuses = [status] * 10
    server.location = f"{server.url}/sets/in.jsonl?secret"
    with pytest.raises(kind, match=words) as caught:
        file_of(f"{server.url}/sets/in.jsonl").stamp()
    assert "secret" not in str(caught.value)
    assert len(server.asked) == (http_folder.TRIES if kind is PlaceUnavailable else 1)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Content-Range": "bytes 0-0/99999999999999999999"}, "not given in the ranges"),
        ({"Content-Range": "bytes 5-5/1000"}, "came where 0 to 0 were asked for"),
        ({"Content-Range": ""}, "not given in the ranges"),
        ({"Content-Encoding": "gzip"}, "not given in the ranges"),
        ({"ETag": ""}, "neither an ETag nor a Last-Modified"),
    ],
)
def test_answer_that_is_not_what_was_asked_for_is_refused(
    server: RangeServer, changed: dict[str, str], words: str
) -> None:
    server.headers_of = lambda headers: {**headers, **changed}
    with pytest.raises((InputInvalid, PlaceUnavailable), match=words):
        file_of(f"{server.url}/sets/in.jsonl").stamp()


def test_answer_that_is_cut_off_is_asked_for_again(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "LEAST_BYTES", 100)
    cuts = iter([3, 5])

    def cut(body: bytes) -> bytes:
        return body[: next(cuts, len(body))]

    file, _ = file_of(f"{server.url}/sets/in.jsonl").open()
    server.body_of = cut
    server.headers_of = lambda headers: {**headers, "Connection": "close"}
    assert file.read(100) == LINES[:100]
    server.body_of = lambda body: body[:-1]
    file.seek(5000)
    with pytest.raises(PlaceUnavailable, match="cannot be had now"):
        file.read(100)


@pytest.mark.parametrize("is_dripping", [False, True])
def test_server_that_hangs_holds_nobody(
    monkeypatch: pytest.MonkeyPatch, *, is_dripping: bool
) -> None:
    monkeypatch.setattr(http_folder, "CALL_S", 0.2)
    monkeypatch.setattr(http_folder, "TRIES", 2)
    ended = threading.Event()
    came = threading.Semaphore(0)
    connections: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                connections.append(client)
                came.release()
                threading.Thread(target=drip, args=(client,), daemon=True).start()

    def drip(client: socket.socket) -> None:
        with suppress(OSError):
            while is_dripping and not ended.wait(0.02):
                client.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        source = file_of(f"http://127.0.0.1:{listener.getsockname()[1]}/x.jsonl")
        with pytest.raises(PlaceUnavailable, match="did not answer in time"):
            source.stamp()
        for _ in range(2):  # who waits to be accepted came, too
            assert came.acquire(timeout=120)
        listener.shutdown(socket.SHUT_RDWR)
    ended.set()
    for each in connections:
        each.close()
    assert len(connections) == 2


def test_inner_network_is_named_by_names_that_can_be_nothing_else() -> None:
    inner = (
        *("127.0.0.1", "10.1.2.3", "::1", "169.254.169.254", "localhost", "files"),
        *("files.corp", "store.default.svc.cluster.local"),
    )
    outer = (
        *("data.example.com", "8.8.8.8", "2606:4700::1111", "127.0.0.1.nip.example"),
        "2130706433.example.com",
    )
    assert [*filter(names_inner, (*inner, *outer))] == [*inner]


INNER = (
    *("127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "::1", "::", "fe80::1", "fd00:ec2::254"),  # noqa: S104 - a server may say so
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::"),
)


@pytest.mark.parametrize("address", INNER)
def test_public_name_that_leads_to_an_inner_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    connected: list[Any] = []
    found = [(0, 0, 0, "", (address, 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_words, **_options: found)
    monkeypatch.setattr(socket, "create_connection", lambda *words, **_: connected.append(words))
    with pytest.raises(InputInvalid, match="leads to an inner address"):
        file_of("http://data.example.com/x.jsonl").stamp()
    assert connected == []


def test_name_that_changes_its_address_is_checked_each_time(
    monkeypatch: pytest.MonkeyPatch, server: RangeServer
) -> None:
    """A name that was public when it was looked at first is an inner one a moment later."""
    found = iter(["93.184.215.14", "127.0.0.1"])
    connected: list[str] = []

    def to_server(address: tuple[str, int], timeout: float) -> socket.socket:
        connected.append(address[0])
        plain = socket.socket()
        plain.settimeout(timeout)
        plain.connect(server.server_address[:2])
        return plain

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: [(0, 0, 0, "", (next(found), 80))])
    monkeypatch.setattr(socket, "create_connection", to_server)
    source = file_of("http://data.example.com/sets/in.jsonl")
    assert source.stamp().size_bytes == len(LINES)
    with pytest.raises(InputInvalid, match="leads to an inner address"):
        source.stamp()
    # the address that was looked at is the one that was connected to
    assert connected == ["93.184.215.14"]


def test_http_has_no_folders_and_takes_no_results_and_a_server_that_is_away_is_told(
    server: RangeServer,
) -> None:
    with pytest.raises(Exception, match="cannot be listed"):
        next(iter(at_once(remote_url(server.url)).entries()))
    with pytest.raises(Exception, match="cannot be written to over HTTP"):
        RemoteSink(remote_url(f"{server.url}/out"), JobId("job-1"), at_once)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        with pytest.raises(PlaceUnavailable, match="Connection refused"):
            file_of(f"http://127.0.0.1:{taken.getsockname()[1]}/x.jsonl").stamp()
