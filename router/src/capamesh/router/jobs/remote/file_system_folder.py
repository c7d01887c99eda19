"""Folders of file systems that fsspec has: FTP, SFTP, HDFS, SMB and others. IO: calls to it. The only importer of fsspec.

These libraries are many, and what they do of timeouts is theirs. So each call runs in a thread of its own that nobody has to wait for: one
that does not end in time is given up with its connection, and while too many such are left nothing more is asked of that place. The environment
has their options under fsspec's names: FSSPEC_SFTP_USERNAME, say.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, TypeAlias, TypeVar, cast

from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.router.jobs.inputs.source import Entry, Stamp
from capamesh.router.jobs.remote.folder import (
    CALL_S,
    PUT_S,
    AlreadyThere,
    Denied,
    NotThere,
    PlaceError,
    RemoteFolder,
    Unreachable,
    Unsuited,
)
from capamesh.router.jobs.remote.urls import RemoteUrl

RENAMING: Final = frozenset({"hdfs", "memory", "sftp", "ssh"})
"""The schemes whose servers rename a file as one step, so that a part is there whole or not at all."""
MOST_LEFT: Final = 8
"""The threads of calls that were given up, over all places (guess: each waits for a server that may never answer)."""
MOST_DEPTH: Final = 32
"""The folders within one another that are listed (guess: a link may lead round)."""
_MARKS: Final = (
    "ETag",
    "etag",
    "mtime",
    "last_modified",
    "LastModified",
    "modified",
    "modify",
    "updated",
    "created",
)
"""The keys under which file systems tell what changes with a file."""

_FileSystem: TypeAlias = Any
"""A file system of fsspec's, which has no types."""
_Result = TypeVar("_Result")


def fsspec() -> Any:  # noqa: ANN401 - the library is loaded where it is used
    """Return fsspec; raises `ConfigError` where it is missing."""
    try:
        return import_module("fsspec")
    except ImportError as exc:
        raise ConfigError(
            "jobs read and write such a URL by fsspec, which is not here: pip install 'capamesh[jobs]'"
        ) from exc


class _Left:
    """Counts the threads of calls that were given up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, count: int) -> int:
        """Add to the count and return it."""
        with self._lock:
            self._count += count
            return self._count


_LEFT: Final = _Left()


class FileSystemFolder(RemoteFolder):
    """A folder of one file system, over a connection of its own."""

    def __init__(self, url: RemoteUrl, call_s: float = CALL_S) -> None:
        """Raises `ConfigError`: fsspec is missing, or does not know the scheme, or lacks a library for it."""
        super().__init__(url)
        try:
            fsspec().get_filesystem_class(url.scheme)
        except (ImportError, ValueError) as exc:
            raise ConfigError(f"fsspec has no {url.scheme}:// here: {str(exc)[:200]}") from exc
        self._call_s = call_s
        self._lock = threading.Lock()
        self._connected: tuple[_FileSystem, str] | None = None
        """The file system, and the folder's path in it."""

    @override
    def stamp(self, path: str) -> Stamp:
        def ask(files: _FileSystem, root: str) -> Stamp:
            about = files.info(_joined(root, path))
            if about.get("type") != "file" or about.get("size") is None:
                raise Unsuited("is no file of a known length")
            mark = _mark(about)
            if not mark:
                raise Unsuited(
                    "has neither an ETag nor a time of change there, so that a change would not be seen; put it where it has"
                )
            return Stamp(int(about["size"]), mark)

        return self._asked(ask)

    @override
    def read(self, path: str, start: int, end: int, stamp: Stamp) -> bytes:
        if start == end:
            return b""
        data = self._asked(
            lambda files, root: bytes(files.cat_file(_joined(root, path), start=start, end=end))
        )
        if len(data) != end - start:
            raise Unreachable(f"gave {len(data)} bytes where {end - start} were asked for")
        return data

    @override
    def entries(self) -> Iterator[Entry]:
        folders = [""]
        while folders:
            inner = folders.pop()
            if inner.count("/") > MOST_DEPTH:
                raise Unsuited(f"has more than {MOST_DEPTH} folders within one another")
            for name, about in self._listed(inner):
                path = f"{inner}{name}"
                if about.get("type") == "directory":
                    folders.append(f"{path}/")
                elif about.get("type") == "file" and not about.get("islink"):
                    yield Entry(path, int(about.get("size") or 0), _mark(about))

    @override
    def names(self) -> Iterator[str]:
        for name, about in self._listed(""):
            if about.get("type") == "file":
                yield name

    @override
    def put(self, name: str, data: bytes) -> None:
        self.check_writable()

        def ask(files: _FileSystem, root: str) -> None:
            place, temporary = _joined(root, name), _joined(root, f".{name}.tmp")
            files.makedirs(root, exist_ok=True)
            if files.exists(place):
                raise AlreadyThere("is there already; a part is written once")
            files.pipe_file(temporary, data)
            files.mv(temporary, place)
            files.invalidate_cache()
            if files.info(place).get("size") != len(data):
                raise Unreachable("is not there with all its bytes after it was written")

        self._asked(ask, PUT_S)

    @override
    def remove(self, names: Sequence[str]) -> None:
        for name in names:

            def ask(files: _FileSystem, root: str, name: str = name) -> None:
                files.rm_file(_joined(root, name))

            with suppress(NotThere):
                self._asked(ask)

    @override
    def check_writable(self) -> None:
        if self.url.scheme not in RENAMING:
            known = ", ".join(f"{each}://" for each in sorted(RENAMING - {"memory"}))
            raise Unsuited(
                f"cannot be written to: of {self.url.scheme}:// it is not known that a file is renamed as one step, as it is of"
                f" {known} and of object stores"
            )

    def _listed(self, inner: str) -> list[tuple[str, dict[str, Any]]]:
        def ask(files: _FileSystem, root: str) -> list[tuple[str, dict[str, Any]]]:
            found: Sequence[dict[str, Any]] = files.ls(
                _joined(root, inner.rstrip("/")), detail=True
            )
            named = [(str(each["name"]).rstrip("/").rpartition("/")[2], each) for each in found]
            return [(name, each) for name, each in named if name not in {"", ".", ".."}]

        try:
            return self._asked(ask)
        except NotThere:
            return []

    def _asked(
        self, ask: Callable[[_FileSystem, str], _Result], seconds: float | None = None
    ) -> _Result:
        """Return what a call gives, one at a time; the connection of one that fails is not used again."""
        call_s = seconds or self._call_s
        if not self._lock.acquire(timeout=call_s):
            raise Unreachable("cannot be had now: the calls before it have not ended")
        # the call's own until it has ended: what one that was given up connects to later is nobody else's
        connections = [] if self._connected is None else [self._connected]
        self._connected = None
        try:
            found = _in_time(lambda: self._run(ask, connections), call_s)
        except PlaceError as exc:
            if not isinstance(exc, Unreachable):
                self._connected = next(iter(connections), None)
            raise
        else:
            (self._connected,) = connections
        finally:
            self._lock.release()
        return found

    def _run(
        self,
        ask: Callable[[_FileSystem, str], _Result],
        connections: list[tuple[_FileSystem, str]],
    ) -> _Result:
        """Call over the connection that is given, or over one that is added there."""
        if not connections:
            files, root = fsspec().core.url_to_fs(
                self.url.text(), skip_instance_cache=True, use_listings_cache=False
            )
            connections.append((files, str(root).rstrip("/")))
        return ask(*connections[0])


def _in_time(run: Callable[[], _Result], seconds: float) -> _Result:
    """Return what a call gives, or give it up with its thread."""
    if _LEFT.add(0) >= MOST_LEFT:
        raise Unreachable(
            f"cannot be had now: {MOST_LEFT} calls of jobs to such places have not ended"
        )
    done = threading.Event()
    given_up = threading.Event()
    ending = threading.Lock()  # a call either ends in time or is given up
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append((run(), None))
        except Exception as exc:  # noqa: BLE001 - these libraries raise whatever they meet
            outcome.append((None, _told(exc)))
        with ending:
            done.set()
        if given_up.is_set():
            _LEFT.add(-1)

    threading.Thread(target=call, name="job place", daemon=True).start()
    done.wait(seconds)
    with ending:
        if not done.is_set():
            _LEFT.add(1)
            given_up.set()
    if given_up.is_set():
        raise Unreachable("cannot be had now: the place did not answer in time")
    found, error = outcome[0]
    if error is not None:
        raise error
    return cast("_Result", found)


def _told(error: Exception) -> PlaceError:
    """Return what went wrong in our own words: those of the library may have what was sent."""
    match error:
        case PlaceError():
            return error
        case FileNotFoundError():
            return NotThere("is not there")
        case PermissionError():
            return Denied("may not be used with the router's credentials: look at its environment")
        case NotImplementedError() | IsADirectoryError() | NotADirectoryError():
            return Unsuited(f"is nothing that the place can do ({type(error).__name__})")
        case _:
            return Unreachable(f"cannot be had now ({type(error).__name__})")


def _joined(root: str, path: str) -> str:
    return f"{root}/{path}" if path else root


def _mark(about: dict[str, Any]) -> str:
    """Return what changes with a file; "": nothing is told."""
    found = next((about[key] for key in _MARKS if about.get(key)), "")
    return str(found)[:1000]
