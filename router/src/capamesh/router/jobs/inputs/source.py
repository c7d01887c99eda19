"""The place of an input's bytes: one small interface, of which the local file is the first. IO: files."""

from __future__ import annotations

import json
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from capamesh.protocol.private_files import reason_of
from capamesh.router.jobs.errors import InputChanged, InputInvalid


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells whether an input has been changed, without reading it."""

    size_bytes: int
    changed: str
    """The time of its last change, in the form of its store: nanoseconds, or an ETag."""

    def text(self) -> str:
        """Return the stamp as a job's fingerprint."""
        return json.dumps({"size_bytes": self.size_bytes, "changed": self.changed})


class Source(ABC):
    """One file of an input."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The name for messages."""

    @abstractmethod
    def open(self) -> tuple[BinaryIO, Stamp]:
        """Return the file, from which bytes can be read at any place, and its stamp; raises `InputInvalid`."""

    @abstractmethod
    def stamp(self) -> Stamp:
        """Return the stamp that the file has now; raises `InputInvalid`."""

    def check(self, before: Stamp) -> None:
        """Raise `InputChanged` unless the file is still what it was."""
        now = self.stamp()
        if now != before:
            raise InputChanged(
                f"{self.name} was changed while it was read: it had {before.size_bytes} bytes and has {now.size_bytes};"
                " submit a new job for it"
            )


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a folder."""

    path: str
    """The path from the folder on."""
    size_bytes: int
    changed: str
    """The time of its last change, in the form of its store: nanoseconds, or an ETag."""


class Files(ABC):
    """The files of one folder, and of the folders below it, by their names."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The folder's name for messages."""

    @abstractmethod
    def named(self, paths: Sequence[str]) -> Iterator[bytes | InputInvalid]:
        """Yield the bytes of the files at paths from the folder on, as they are now, or why one cannot be read.

        A path has no part that is "..". Raises `PlaceUnavailable` where what went wrong may pass.
        """


class Folder(Files):
    """The files of one folder, which may be listed."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Yield all files, in any order; raises `InputInvalid`, or `PlaceUnavailable` where that may pass."""

    @abstractmethod
    def contents(self, entries: Sequence[Entry]) -> Iterator[bytes | InputInvalid]:
        """Yield the bytes of each of these files, or why it cannot be read.

        Raises `InputChanged` if one is not what its entry says, and `PlaceUnavailable` where what went wrong may pass.
        """


class Sources(ABC):
    """Finds inputs by their URLs for a tenant: those that the operator lets jobs read, and no others."""

    @abstractmethod
    def source(self, url: str, tenant: str) -> Source:
        """Return the file of an input; raises `InvalidRequest` for one that jobs may not read."""

    @abstractmethod
    def folder(self, url: str, tenant: str) -> Folder:
        """Return a folder that is an input; raises as `source`."""

    @abstractmethod
    def beside(self, url: str, tenant: str) -> Files:
        """Return the files of the folder that an input is in; raises as `source`."""


class LocalFile(Source):
    """A file of this machine, or of a folder that all routers have at the same place."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    @override
    def open(self) -> tuple[BinaryIO, Stamp]:
        try:
            # non-blocking, so that opening a named pipe cannot hang; the check is on the open file
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as exc:
            raise _unreadable(self.name, exc) from exc
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise InputInvalid(f"{self.name} is not a plain file")
        return os.fdopen(descriptor, "rb"), _stamp_of(status)

    @override
    def stamp(self) -> Stamp:
        try:
            return _stamp_of(self.path.stat())
        except OSError as exc:
            raise _unreadable(self.name, exc) from exc


def _stamp_of(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, f"{status.st_mtime_ns} {status.st_ino}")


def _unreadable(name: str, error: OSError) -> InputInvalid:
    return InputInvalid(f"cannot read {name}: {reason_of(error)}")
