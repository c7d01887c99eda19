"""Files and results of jobs in folders that are far away, as readers and the runner know them. IO: what the folders do."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, Final, TypeVar, cast

from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest
from capamesh.router.jobs.errors import InputChanged, InputInvalid, OutputFailed, PlaceUnavailable
from capamesh.router.jobs.inputs.folder import check_file_bytes
from capamesh.router.jobs.inputs.ranges import WINDOW_BYTES, RangeFile
from capamesh.router.jobs.inputs.source import Entry, Folder, Source, Stamp
from capamesh.router.jobs.outputs.sink import OURS, Sink
from capamesh.router.jobs.remote.file_system_folder import FileSystemFolder
from capamesh.router.jobs.remote.folder import (
    AlreadyThere,
    NotTheSame,
    PlaceError,
    RemoteFolder,
    Unreachable,
    Unsuited,
)
from capamesh.router.jobs.remote.http_folder import HttpFolder
from capamesh.router.jobs.remote.object_folder import ObjectFolder
from capamesh.router.jobs.remote.urls import HTTP, OBJECT_STORES, RemoteUrl
from capamesh.router.jobs.values import JobId, Part

MAX_PART_BYTES: Final = 2**30
"""The most bytes of a part, which is one call: object stores take 5 GB (guess: a shard has 64 MiB)."""

_Named = TypeVar("_Named")


def remote_folder(url: RemoteUrl) -> RemoteFolder:
    """Return the folder of a URL. Raises `ConfigError`: a library is missing, or the router's environment does not fit."""
    if url.scheme in OBJECT_STORES:
        return ObjectFolder(url)
    if url.scheme in HTTP:
        return HttpFolder(url)
    return FileSystemFolder(url)


class RemoteFile(Source):
    """A file that is read by ranges."""

    def __init__(
        self, url: RemoteUrl, open_folder: Callable[[RemoteUrl], RemoteFolder] = remote_folder
    ) -> None:
        """Raises `InputInvalid`, or `ConfigError` as `remote_folder`."""
        super().__init__(url.text())
        if not url.path:
            raise InputInvalid(f"{url.text()} names no file")
        self._path = url.name
        self._folder = open_folder(url.folder)

    @override
    def open(self) -> tuple[BinaryIO, Stamp]:
        stamp = self.stamp()

        def read(start: int, end: int) -> bytes:
            with _as_input(self.name):
                return self._folder.read(self._path, start, end, stamp)

        return cast("BinaryIO", RangeFile(read, stamp.size_bytes)), stamp

    @override
    def stamp(self) -> Stamp:
        with _as_input(self.name):
            return self._folder.stamp(self._path)


class RemoteFiles(Folder):
    """The files of a folder that is far away, several of which are read at once."""

    def __init__(
        self, url: RemoteUrl, open_folder: Callable[[RemoteUrl], RemoteFolder] = remote_folder
    ) -> None:
        """Raises `ConfigError` as `remote_folder`."""
        super().__init__(url.text())
        self._folder = open_folder(url)

    @override
    def entries(self) -> Iterator[Entry]:
        with _as_input(self.name):
            yield from self._folder.entries()

    @override
    def contents(self, entries: Sequence[Entry]) -> Iterator[bytes | InputInvalid]:
        return self._at_once(self._content, entries)

    @override
    def named(self, paths: Sequence[str]) -> Iterator[bytes | InputInvalid]:
        return self._at_once(self._named, paths)

    def _at_once(
        self, read: Callable[[_Named], bytes | InputInvalid], named: Sequence[_Named]
    ) -> Iterator[bytes | InputInvalid]:
        """Yield what comes of each, in order; as many are read at once, and held, as the folder takes calls."""
        threads = ThreadPoolExecutor(self._folder.most_at_once, "job input")
        reading: deque[Future[bytes | InputInvalid]] = deque()
        try:
            for each in named:
                if len(reading) == self._folder.most_at_once:
                    yield reading.popleft().result()
                reading.append(threads.submit(read, each))
            while reading:
                yield reading.popleft().result()
        finally:  # of one that raised, the others are not waited for
            threads.shutdown(wait=False, cancel_futures=True)

    def _named(self, path: str) -> bytes | InputInvalid:
        name = self._folder.url.below(path).text()
        try:
            with _as_input(name):
                stamp = self._folder.stamp(path)
                check_file_bytes(name, stamp.size_bytes)
                return _whole(self._folder, path, stamp)
        except InputInvalid as exc:
            return exc

    def _content(self, entry: Entry) -> bytes | InputInvalid:
        stamp = Stamp(entry.size_bytes, entry.changed)
        try:
            with _as_input(self._folder.url.below(entry.path).text()):
                return _whole(self._folder, entry.path, stamp)
        except InputInvalid as exc:
            return exc


class RemoteSink(Sink):
    """The parts of one job in a folder that is far away."""

    def __init__(
        self,
        url: RemoteUrl,
        job: JobId,
        open_folder: Callable[[RemoteUrl], RemoteFolder] = remote_folder,
    ) -> None:
        """Use the job's own folder below a URL. Raises `InvalidRequest`: no part can be written there; `ConfigError`."""
        self._folder = open_folder(url.below(job))
        try:
            self._folder.check_writable()
        except Unsuited as exc:
            raise InvalidRequest(f"the output {url.text()} {exc}") from exc

    @override
    def write(self, name: str, chunks: Iterable[bytes]) -> Part:
        data = _joined(name, chunks)
        part = Part(name, len(data), hashlib.sha256(data).hexdigest())
        with self._as_output("write", name):
            try:
                self._folder.put(name, data)
            except AlreadyThere:
                # an answer that was lost: the name is this lease's alone, so what is there is what was sent, or nothing of ours
                if not self._has(part):
                    raise
        return part

    @override
    def check_room(self, size_bytes: int) -> None:
        """Do nothing: stores of objects have room, or tell by refusing the part."""

    @override
    def read(self, part: Part) -> bytes:
        with self._as_output("read", part.name):
            data = self._bytes_of(part)
        if data is None:
            raise OutputFailed(
                f"{self._shown(part.name)} is not what was written: it should have {part.size_bytes} bytes with the SHA-256"
                f" {part.sha256}"
            )
        return data

    @override
    def collect(self, named: Collection[str]) -> int:
        with self._as_output("clean", ""):
            garbage = [
                name for name in self._folder.names() if name not in named and OURS.fullmatch(name)
            ]
            self._folder.remove(garbage)
        return len(garbage)

    def _has(self, part: Part) -> bool:
        return self._bytes_of(part) is not None

    def _bytes_of(self, part: Part) -> bytes | None:
        """Return the bytes of a part; None: they are others."""
        stamp = self._folder.stamp(part.name)
        if stamp.size_bytes != part.size_bytes:
            return None
        data = _whole(self._folder, part.name, stamp)
        return data if hashlib.sha256(data).hexdigest() == part.sha256 else None

    def _shown(self, name: str) -> str:
        return self._folder.url.below(name).text() if name else self._folder.url.text()

    @contextmanager
    def _as_output(self, verb: str, name: str) -> Generator[None]:
        try:
            yield
        except Unreachable as exc:
            raise PlaceUnavailable(f"cannot {verb} {self._shown(name)}: it {exc}") from None
        except PlaceError as exc:
            raise OutputFailed(f"cannot {verb} {self._shown(name)}: it {exc}") from None


def _whole(folder: RemoteFolder, path: str, stamp: Stamp) -> bytes:
    """Return all bytes of a file, a window at a time."""
    size_bytes = stamp.size_bytes
    windows = [
        folder.read(path, at, min(at + WINDOW_BYTES, size_bytes), stamp)
        for at in range(0, size_bytes, WINDOW_BYTES)
    ]
    return windows[0] if len(windows) == 1 else b"".join(windows)


def _joined(name: str, chunks: Iterable[bytes]) -> bytes:
    """Return the bytes of a part. Raises `OutputFailed`: they are too many for one call."""
    held: list[bytes] = []
    size_bytes = 0
    for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > MAX_PART_BYTES:
            raise OutputFailed(
                f"{name} has more than {MAX_PART_BYTES} bytes, which is the limit of one part far away; choose a folder"
            )
        held.append(chunk)
    return b"".join(held)


@contextmanager
def _as_input(name: str) -> Generator[None]:
    try:
        yield
    except NotTheSame:
        raise InputChanged(
            f"{name} was changed since the job was planned; submit a new job for it"
        ) from None
    except Unreachable as exc:
        raise PlaceUnavailable(f"{name} {exc}") from None
    except PlaceError as exc:
        raise InputInvalid(f"{name} {exc}") from None
