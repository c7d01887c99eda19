"""The place of parts: one small interface, of which the local folder is the first. IO: files.

A part is written beside its place, brought to the disk, and renamed to its name, which no other lease has; then the folder is
brought to the disk. So a part that a manifest names is whole, whenever the power fails, and what is not whole has no name.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from typing_extensions import override

from capamesh.protocol.private_files import reason_of
from capamesh.router.jobs.errors import OutputFailed
from capamesh.router.jobs.values import JobId, Lease, Part

CHUNK_BYTES: Final = 2**20
OURS: Final = re.compile(r"(?:part|bad)-\d+-\d+\.[a-z]+|\.(?:part|bad)-\d+-\d+\.[a-z]+\.tmp")
"""The names that parts have, and that they have before they are whole: nothing else is ever removed."""
_ROOM: Final = "part-0-0.room"
"""Stands for a part where only the room for one is looked for."""


def part_name(lease: Lease, ending: str, *, is_bad: bool = False) -> str:
    """Return the name of the part of a lease: no other lease of the job has it."""
    return f"{'bad' if is_bad else 'part'}-{lease.seq:06d}-{lease.token}.{ending}"


class Sink(ABC):
    """The parts of one job.

    Its methods block, and raise `OutputFailed` when they cannot do what they say, or `PlaceUnavailable` where that passes by itself.
    """

    @abstractmethod
    def write(self, name: str, chunks: Iterable[bytes]) -> Part:
        """Write a part whole and return what the manifest says of it; a name is written once."""

    @abstractmethod
    def check_room(self, size_bytes: int) -> None:
        """Find out whether a part of so many bytes could be written, where the place tells."""

    @abstractmethod
    def read(self, part: Part) -> bytes:
        """Return the bytes of a part, which are those that were written."""

    def open(self, part: Part) -> BinaryIO:
        """Return the bytes of a part as a file, once it is known that they are those that were written."""
        return io.BytesIO(self.read(part))

    @abstractmethod
    def collect(self, named: Collection[str]) -> int:
        """Remove the files of parts whose names are not in `named` and return how many there were.

        Only of a job that has ended: what is written then is named by nobody later.
        """


class LocalSink(Sink):
    """A folder of one job, on this machine or on a disk that all routers have at the same place."""

    def __init__(self, folder: Path, job: JobId) -> None:
        """Use the job's own folder in `folder`, so that two jobs never write over one another."""
        self.folder = folder / job

    @override
    def write(self, name: str, chunks: Iterable[bytes]) -> Part:
        place = self.folder / name
        temporary = self.folder / f".{name}.tmp"
        digest = hashlib.sha256()
        size_bytes = 0
        try:
            self._make_folder()
            if os.path.lexists(place):  # the manifest may be committed: it names what is there
                raise OutputFailed(f"{place} is there already; a part is written once")
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
            )
            try:
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    for chunk in chunks:
                        digest.update(chunk)
                        size_bytes += len(chunk)
                        self._write_all(file.fileno(), chunk)
                    self._sync(file.fileno())
                self._rename(temporary, place)
            except BaseException:
                with suppress(OSError):  # it is collected later
                    temporary.unlink(missing_ok=True)
                raise
            self._sync_folder(self.folder)
        except OSError as exc:
            raise OutputFailed(f"cannot write {place}: {reason_of(exc)}") from exc
        return Part(name, size_bytes, digest.hexdigest())

    @override
    def check_room(self, size_bytes: int) -> None:
        place = self.folder / f".{_ROOM}.tmp"
        try:
            self._make_folder()
            with place.open("wb", buffering=0) as file:
                try:
                    self._reserve(file.fileno(), size_bytes)
                finally:
                    place.unlink(missing_ok=True)
        except OSError as exc:
            raise OutputFailed(
                f"cannot write {size_bytes} bytes to {self.folder}: {reason_of(exc)}"
            ) from exc

    @override
    def read(self, part: Part) -> bytes:
        place = self.folder / part.name
        try:
            with place.open("rb") as file:
                data = file.read(part.size_bytes + 1)
        except OSError as exc:
            raise OutputFailed(f"cannot read {place}: {reason_of(exc)}") from exc
        if len(data) != part.size_bytes or hashlib.sha256(data).hexdigest() != part.sha256:
            raise _other_than_written(place, part)
        return data

    @override
    def open(self, part: Part) -> BinaryIO:
        place = self.folder / part.name
        try:
            file = place.open("rb")
        except OSError as exc:
            raise OutputFailed(f"cannot read {place}: {reason_of(exc)}") from exc
        try:
            _check(file, place, part)
        except OSError as exc:
            file.close()
            raise OutputFailed(f"cannot read {place}: {reason_of(exc)}") from exc
        except OutputFailed:
            file.close()
            raise
        return file

    @override
    def collect(self, named: Collection[str]) -> int:
        removed = 0
        try:
            with os.scandir(self.folder) as entries:
                garbage = [
                    entry.name
                    for entry in entries
                    if entry.name not in named and OURS.fullmatch(entry.name)
                ]
            for name in garbage:
                (self.folder / name).unlink(missing_ok=True)
                removed += 1
        except FileNotFoundError:  # nothing was ever written
            return 0
        except OSError as exc:
            raise OutputFailed(f"cannot clean {self.folder}: {reason_of(exc)}") from exc
        return removed

    # the steps, each of which may be the last that a router does

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sync_folder(self.folder.parent)

    def _reserve(self, descriptor: int, size_bytes: int) -> None:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, 0, max(1, size_bytes))

    def _write_all(self, descriptor: int, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]

    def _sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def _rename(self, temporary: Path, place: Path) -> None:
        temporary.replace(place)

    def _sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _other_than_written(place: Path, part: Part) -> OutputFailed:
    return OutputFailed(
        f"{place} is not what was written: it should have {part.size_bytes} bytes with the SHA-256 {part.sha256}"
    )


def _check(file: BinaryIO, place: Path, part: Part) -> None:
    """Raise `OutputFailed` unless a file is the part that was written; then it is at its beginning."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    if file.tell() != part.size_bytes or digest.hexdigest() != part.sha256:
        raise _other_than_written(place, part)
    file.seek(0)
