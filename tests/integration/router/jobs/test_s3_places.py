"""Inputs and results in S3, against a real server of it: each byte is the planned object's, each part is whole or not there."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from capamesh.protocol.errors import ConfigError
from capamesh.router.jobs.errors import InputChanged, InputInvalid, OutputFailed, PlaceUnavailable
from capamesh.router.jobs.inputs import ranges
from capamesh.router.jobs.inputs.arrow_files import ParquetReader
from capamesh.router.jobs.inputs.jsonl import JsonlReader
from capamesh.router.jobs.inputs.limits import ShardLimits
from capamesh.router.jobs.inputs.reader import Reader
from capamesh.router.jobs.remote import object_folder
from capamesh.router.jobs.remote.files import RemoteFile, RemoteSink
from capamesh.router.jobs.remote.object_folder import ObjectFolder
from capamesh.router.jobs.remote.urls import remote_url
from capamesh.router.jobs.values import JobId

KEY = "AKIATESTTESTTEST"
SECRET = "secret/that+no/text/may/say"  # noqa: S105 - of a server that is there for a test
BUCKET = "bucket"
_PROGRAM = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class S3Server:
    """One server with one bucket, and boto's client, by which a test sees what is in it."""

    def __init__(self, port: int) -> None:
        import boto3  # noqa: PLC0415 - it takes half a second

        self.port = port
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=BUCKET)

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def keys(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return sorted(each["Key"] for each in found.get("Contents", []))


PIECE = 16 * 1024


class FaultyProxy:
    """Passes connections on, as long as it is told to."""

    def __init__(self, port: int) -> None:
        """`port` is that of the server, on this machine."""
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.requests: list[bytes] = []
        """The first line and the headers of each request, as far as they came at once."""
        self.is_refusing = False  # connections are closed at once
        self.is_silent = False  # what the client sends is taken, and nothing is answered
        self.cut_after: int | None = None
        """The bytes of answers after which one connection is closed, once."""
        self.answers: Callable[[bytes], bytes | None] = lambda _head: None
        """Returns an answer of the proxy's own to a request, or None to pass it on."""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()

    def break_all(self) -> None:
        """Break all connections that are open, as a server that dies does."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.is_refusing:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._server_port))
            with self._lock:
                self._sockets += [client, server]
            for way in (self._forward, self._back):
                threading.Thread(target=way, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(PIECE):
                if self.is_refusing:
                    break
                if b" HTTP/1.1\r\n" in data:
                    self.requests.append(data.partition(b"\r\n\r\n")[0])
                    own = self.answers(data)
                    if own is not None:
                        client.sendall(own)
                        continue
                if not self.is_silent:
                    server.sendall(data)
        self._end(client, server)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(PIECE):
                with self._lock:
                    left = self.cut_after
                    if left is not None:
                        self.cut_after = left - len(data) if left > len(data) else None
                if left is not None and left <= len(data):
                    client.sendall(data[:left])
                    break
                if not self.is_silent:
                    client.sendall(data)
        self._end(client, server)

    def _end(self, *ends: socket.socket) -> None:
        for each in ends:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


pytest.importorskip("obstore")

JOB = JobId("job-1")
LINES = b"".join(b'{"v": %d, "w": "%060d"}\n' % (at, at) for at in range(50_000))
VALUES = list(range(50_000))
OUT = f"s3://{BUCKET}/out"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """Run a server, or leave the tests out where moto is not installed."""
    pytest.importorskip("moto")
    argv, pipe = [sys.executable, "-c", _PROGRAM], subprocess.PIPE
    # its pipes are closed, and it is waited for
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield S3Server(int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture
def proxy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A network between the router and the server, which the environment names."""
    proxy = FaultyProxy(server.port)
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}"),
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    object_folder._store.cache_clear()
    yield proxy
    object_folder._store.cache_clear()
    proxy.close()


@contextmanager
def impatient(
    monkeypatch: pytest.MonkeyPatch, *users: RemoteFile | RemoteSink, tries: int = 2
) -> Iterator[None]:
    """Let these wait for the store for a moment alone: it does not answer. What it does answer has the time that it takes."""
    patient = [user._folder for user in users]
    object_folder._store.cache_clear()
    with monkeypatch.context() as context:
        for name, value in (("CALL_S", 0.5), ("PUT_S", 0.5), ("TRIES", tries), ("TRIES_S", 2.0)):
            context.setattr(object_folder, name, value)
        for user in users:
            user._folder = ObjectFolder(user._folder.url)
        try:
            yield
        finally:
            for user, folder in zip(users, patient, strict=True):
                user._folder = folder
    object_folder._store.cache_clear()


def file_of(key: str) -> RemoteFile:
    return RemoteFile(remote_url(f"s3://{BUCKET}/{key}"))


def values_of(reader: Reader, rows: int = 7000) -> list[int]:
    planned = list(reader.ranges(ShardLimits(rows)))
    return [
        value
        for each in planned
        for window in reader.windows(each, ["v"])
        for value in list(window.columns["v"])
    ]


def test_lines_are_read_by_ranges(server: S3Server, proxy: FaultyProxy) -> None:
    server.put("sets/in.jsonl", LINES)
    assert values_of(JsonlReader(file_of("sets/in.jsonl"))) == VALUES
    gets = [each for each in proxy.requests if each.startswith(b"GET")]
    assert gets
    assert all(b"range: bytes=" in each.lower() and b"if-match: " in each.lower() for each in gets)


def test_parquet_is_read_by_ranges_and_not_whole(
    server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(ranges, "LEAST_BYTES", 1024)
    table = pa.table({"v": VALUES, "other": [f"{at:060d}" for at in VALUES]})
    path = tmp_path / "in.parquet"
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    parquet.write_table(table, path, row_group_size=10_000, **plain)
    server.put("sets/in.parquet", path.read_bytes())
    fetched: list[int] = []
    read = object_folder.ObjectFolder.read

    def counted(folder: object_folder.ObjectFolder, *words: object) -> bytes:
        data = read(folder, *words)  # type: ignore[arg-type]
        fetched.append(len(data))
        return data

    monkeypatch.setattr(object_folder.ObjectFolder, "read", counted)
    reader = ParquetReader(file_of("sets/in.parquet"))
    planned = list(reader.ranges(ShardLimits(10_000)))
    fetched.clear()
    (window, *_) = list(reader.windows(planned[3], ["v"]))
    assert list(window.columns["v"])[:3] == [30_000, 30_001, 30_002]
    # one column of one group, and the footer
    assert sum(fetched) < len(path.read_bytes()) / 10
    assert values_of(reader) == VALUES


def test_object_that_is_changed_under_the_job_is_not_mixed(
    server: S3Server, proxy: FaultyProxy
) -> None:
    server.put("sets/changed.jsonl", LINES)
    reader = JsonlReader(file_of("sets/changed.jsonl"))
    fingerprint = reader.fingerprint()
    first, *rest = reader.ranges(ShardLimits(7000))
    file, _ = file_of("sets/changed.jsonl").open()
    server.put("sets/changed.jsonl", LINES.replace(b'"v": 49999', b'"v": 59999'))
    with pytest.raises(InputChanged, match="was changed since the job was planned"):
        file.read(10)
    assert reader.fingerprint() != fingerprint
    with pytest.raises(InputChanged):  # the digest of the bytes says so, too
        list(reader.windows(rest[-1], ["v"]))
    # what is as it was may be used: the job's end tells the change
    assert list(reader.windows(first, ["v"]))


def test_object_that_is_changed_while_it_is_planned_fails_the_plan(
    server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "WINDOW_BYTES", 2**20)
    server.put("sets/planned.jsonl", LINES)
    found = JsonlReader(file_of("sets/planned.jsonl")).ranges(ShardLimits(5000))
    next(found)
    server.put("sets/planned.jsonl", LINES + LINES)
    with pytest.raises(InputChanged):
        list(found)


def test_missing_object_and_bucket_are_told(proxy: FaultyProxy) -> None:
    with pytest.raises(InputInvalid, match=f"s3://{BUCKET}/none.jsonl is not there"):
        file_of("none.jsonl").stamp()
    with pytest.raises(InputInvalid):
        RemoteFile(remote_url("s3://no-such-bucket/x.jsonl")).stamp()


def test_store_that_is_away_for_a_while_is_asked_again(
    server: S3Server, proxy: FaultyProxy
) -> None:
    server.put("sets/in.jsonl", LINES)
    failures = iter([b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"] * 2)
    proxy.answers = lambda _head: next(failures, None)
    assert values_of(JsonlReader(file_of("sets/in.jsonl"))) == VALUES
    assert next(failures, None) is None


def test_answer_that_is_cut_off_is_asked_for_again(server: S3Server, proxy: FaultyProxy) -> None:
    server.put("sets/in.jsonl", LINES)
    file, _ = file_of("sets/in.jsonl").open()
    proxy.cut_after = 100_000
    assert file.read(len(LINES)) == LINES
    assert proxy.cut_after is None  # it was cut off


@pytest.mark.parametrize("fault", ["is_silent", "is_refusing"])
def test_store_that_hangs_or_is_gone_holds_nobody(
    server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    server.put("sets/in.jsonl", LINES)
    source, sink = file_of("sets/in.jsonl"), RemoteSink(remote_url(OUT), JOB)
    file, _ = source.open()
    setattr(proxy, fault, True)
    proxy.break_all()
    with impatient(monkeypatch, source, sink):
        with pytest.raises(PlaceUnavailable, match="cannot be had now"):
            file.read(10)
        with pytest.raises(PlaceUnavailable, match=f"cannot write {OUT}/job-1/part-000001-1.jsonl"):
            sink.write("part-000001-1.jsonl", [b"x"])
    setattr(proxy, fault, False)
    # it is back, and so is everything
    assert file.read(10) == LINES[:10]
    part = sink.write("part-000001-2.jsonl", [b"x"])
    assert sink.read(part) == b"x"


def test_part_is_one_object_that_is_written_once_and_read_back(
    server: S3Server, proxy: FaultyProxy
) -> None:
    sink = RemoteSink(remote_url(OUT), JobId("job-2"))
    part = sink.write("part-000003-2.jsonl", [LINES[:100], LINES[100:]])
    assert (part.name, part.size_bytes) == ("part-000003-2.jsonl", len(LINES))
    assert server.get("out/job-2/part-000003-2.jsonl") == LINES
    assert sink.read(part) == LINES
    puts = [each for each in proxy.requests if each.startswith((b"PUT", b"POST"))]
    assert len(puts) == 1  # no upload in pieces, which a dead router would leave open
    assert "Uploads" not in server.client.list_multipart_uploads(Bucket=BUCKET)
    with pytest.raises(OutputFailed, match="is there already"):
        sink.write("part-000003-2.jsonl", [b"other"])
    # the same bytes again: an answer was lost
    assert sink.write("part-000003-2.jsonl", [LINES]) == part
    assert sink.read(part) == LINES


def test_part_whose_answer_is_lost_is_there_whole_or_not_at_all(
    server: S3Server, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = RemoteSink(remote_url(OUT), JobId("job-4"))
    sink.write("part-000001-1.jsonl", [b"first"])
    proxy.cut_after = 0
    proxy.break_all()
    monkeypatch.setattr(object_folder, "TRIES", 1)
    object_folder._store.cache_clear()
    once = RemoteSink(remote_url(OUT), JobId("job-4"))
    with pytest.raises(PlaceUnavailable):
        once.write("part-000002-1.jsonl", [b"second"])
    assert proxy.cut_after is None
    found = {key: server.get(key) for key in server.keys("out/job-4/")}
    found.pop("out/job-4/part-000001-1.jsonl")
    assert found in ({}, {"out/job-4/part-000002-1.jsonl": b"second"})
    # the same lease, once more: by then it is there
    part = once.write("part-000002-1.jsonl", [b"second"])
    assert once.read(part) == b"second"


def test_part_that_is_not_what_was_written_is_not_given(
    server: S3Server, proxy: FaultyProxy
) -> None:
    sink = RemoteSink(remote_url(OUT), JobId("job-5"))
    part = sink.write("part-000001-1.jsonl", [b"first"])
    server.put("out/job-5/part-000001-1.jsonl", b"other")
    with pytest.raises(OutputFailed, match="not what was written"):
        sink.read(part)
    server.client.delete_object(Bucket=BUCKET, Key="out/job-5/part-000001-1.jsonl")
    with pytest.raises(OutputFailed, match="is not there"):
        sink.read(part)


def test_parts_that_no_manifest_names_are_collected_and_nothing_else(
    server: S3Server, proxy: FaultyProxy
) -> None:
    sink = RemoteSink(remote_url(OUT), JobId("job-6"))
    assert sink.collect(()) == 0
    kept = sink.write("part-000001-2.jsonl", [b"kept"])
    sink.write("part-000001-1.jsonl", [b"orphan"])
    sink.write("bad-000001-1.jsonl", [b"orphan"])
    others = ("6/notes.txt", "6/deeper/part-000001-1.jsonl", "66/part-000001-1.jsonl")
    for key in others:
        server.put(f"out/job-{key}", b"of somebody")
    assert sink.collect({kept.name}) == 2
    left = sorted(("6/part-000001-2.jsonl", *others))
    assert server.keys("out/job-6") == [f"out/job-{key}" for key in left]


def test_credentials_are_in_no_text(
    server: S3Server, proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = f"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId><S>{SECRET}</S></Error>"
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for status in ("403 Forbidden", "401 No", "400 Bad", "409 Conflict", "301 Moved"):
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(refusal)}\r\n\r\n{refusal}".encode()
            proxy.answers = lambda _request, head=head: head
            for ask in (
                lambda: file_of("x").stamp(),
                lambda: RemoteSink(remote_url(OUT), JOB).write("part-000001-1.jsonl", [b"x"]),
                lambda: RemoteSink(remote_url(OUT), JOB).collect(()),
            ):
                with pytest.raises((InputInvalid, PlaceUnavailable, OutputFailed)) as caught:
                    ask()
                error: BaseException | None = caught.value
                while error is not None:
                    texts.append(str(error))
                    error = None if error.__suppress_context__ else error.__context__
    told = "\n".join([*texts, caplog.text])
    assert "credentials" in told
    assert KEY not in told
    assert SECRET not in told


def test_environment_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no url at all")
    object_folder._store.cache_clear()
    with pytest.raises((ConfigError, InputInvalid, PlaceUnavailable)) as caught:
        file_of("x").stamp()
    assert "no url at all" not in str(caught.value)
    object_folder._store.cache_clear()


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(object_folder, "import_module", missing)
    object_folder._store.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'capamesh\[jobs\]'"):
        file_of("x")
