"""The bytes of uploaded files: a folder a tenant, and in it a file by its id, with `.part` behind that while it arrives. IO: files.

Nothing that a client says becomes part of a path. Who writes a file holds its lock, which the system takes back when a process
dies, so that of two requests that continue one upload one is refused at once, on whichever router. What is written is kept when
the request breaks off, and is brought to the disk at its end.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from capamesh.protocol.errors import (
    ConfigError,
    FileConflict,
    FileNotFound,
    JobsUnavailable,
    StorageFull,
)
from capamesh.protocol.private_files import make_folder, reason_of
from capamesh.router.jobs.places import FILES_FOLDER, is_file_id, upload_path
from capamesh.router.jobs.stored_files import GIB, FileId, StoredFile

LEAST_FREE_BYTES: Final = 256 * 2**20
"""The bytes of the disk that uploads leave free (guess: what the store, logs and parts need until somebody makes room)."""
LOOK_EVERY_BYTES: Final = 64 * 2**20
"""The bytes after which the disk's room is looked at again."""
ARRIVING: Final = ".part"
DISK_PARTS: Final = 8
"""One owner's files may fill one part of the disk, where the operator does not say how much (guess: some owners, and room to spare)."""
LEAST_OWN_BYTES: Final = GIB
MOST_OWN_BYTES: Final = 256 * GIB
"""The bounds of that (guess: what a small disk should take, and a large one bear)."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOCKED: Final = frozenset({errno.EWOULDBLOCK, errno.EACCES})


class FileFolder:
    """The folder of all uploaded files of a router. Its methods block."""

    def __init__(
        self, jobs_folder: Path, least_free_bytes: int = LEAST_FREE_BYTES, own_bytes: int = 0
    ) -> None:
        """`own_bytes` are the most of one owner's files together; 0: by the size of the disk."""
        self._jobs_folder = jobs_folder
        self._least_free_bytes = least_free_bytes
        self._own_bytes = own_bytes

    def own_bytes(self) -> int:
        """Return the most bytes of one owner's files together."""
        if not self._own_bytes:
            status = self._status()
            part_bytes = status.f_blocks * status.f_frsize // DISK_PARTS
            self._own_bytes = min(max(part_bytes, LEAST_OWN_BYTES), MOST_OWN_BYTES)
        return self._own_bytes

    def path(self, file: StoredFile) -> Path:
        """Return the place of a file that is ready."""
        return upload_path(self._jobs_folder, file.tenant, file.id)

    def check_room(self, size_bytes: int) -> None:
        """Raise `StorageFull` unless the disk has room for so many bytes, and some to spare."""
        status = self._status()
        free_bytes = status.f_bavail * status.f_frsize - self._least_free_bytes
        if size_bytes > free_bytes:
            raise StorageFull(
                f"the disk for uploaded files has room for {max(0, free_bytes)} bytes, and {size_bytes} are to come; delete"
                " files that are done with, or tell the router's operator"
            )

    def _status(self) -> os.statvfs_result:
        folder = self._jobs_folder
        while not folder.exists():
            folder = folder.parent
        return os.statvfs(folder)

    def arriving(self, file: StoredFile) -> ArrivingFile:
        """Return a file to be written on, from its end.

        Raises:
            FileConflict: another request writes it.
            StorageFull: the disk is full.
            JobsUnavailable: the file cannot be opened.
        """
        path = self.path(file)
        part = path.with_name(f"{path.name}{ARRIVING}")
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            make_folder(path.parent)
            try:  # all of it was here, and the router died before it said so; or somebody has just done so
                descriptor, is_placed = os.open(path, flags), True
            except FileNotFoundError:
                descriptor, is_placed = os.open(part, flags | os.O_CREAT, 0o600), False
        except (OSError, ConfigError) as exc:
            raise _failed(exc) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size_bytes = os.fstat(descriptor).st_size
        except OSError as exc:
            os.close(descriptor)
            if exc.errno in _LOCKED:
                raise FileConflict(
                    f"another request writes the file {file.id}; wait until it has ended, then ask HEAD for the offset"
                ) from exc
            raise _failed(exc) from exc
        return ArrivingFile(self, path, None if is_placed else part, descriptor, size_bytes)

    def arrived_bytes(self, file: StoredFile) -> int:
        """Return how many bytes of a file that arrives are here."""
        path = self.path(file)
        for place in (path.with_name(f"{path.name}{ARRIVING}"), path):
            with suppress(OSError):
                return place.stat().st_size
        return 0

    def open(self, file: StoredFile) -> int:
        """Return a descriptor that reads a file that is ready; raises `FileNotFound`, or `JobsUnavailable`."""
        try:
            return os.open(self.path(file), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as exc:
            raise FileNotFound(
                f"the bytes of the file {file.id} are not on this router's disk; routers that share a store give the same"
                " --jobs-folder"
            ) from exc
        except OSError as exc:
            raise _failed(exc) from exc

    def remove(self, tenant: str, file_id: FileId) -> None:
        """Remove the bytes of a file, however far it is; what cannot be removed is garbage, and is tried again later."""
        path = upload_path(self._jobs_folder, tenant, file_id)
        for place in (path, path.with_name(f"{path.name}{ARRIVING}")):
            with suppress(OSError):
                place.unlink(missing_ok=True)

    def found(self, changed_before_s: float) -> Iterator[tuple[FileId, Path]]:
        """Yield the files whose bytes were last changed before a time, in seconds since 1970, with their places."""
        with suppress(OSError), os.scandir(self._jobs_folder / FILES_FOLDER) as tenants:
            for tenant in tenants:
                yield from _found(tenant, changed_before_s)


def _found(tenant: os.DirEntry[str], changed_before_s: float) -> Iterator[tuple[FileId, Path]]:
    with suppress(OSError), os.scandir(tenant.path) as entries:
        for entry in entries:
            file_id = entry.name.removesuffix(ARRIVING)
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if is_file_id(file_id) and status.st_mtime < changed_before_s:
                    yield FileId(file_id), Path(entry.path)


class ArrivingFile:
    """One file that is written on, from its end; its methods block, and one thread at a time calls them."""

    def __init__(
        self, folder: FileFolder, path: Path, part: Path | None, descriptor: int, size_bytes: int
    ) -> None:
        """Take a file that is at `part` until it is whole; None: it is at `path` already."""
        self._folder = folder
        self._path = path
        self._part = part
        self._descriptor = descriptor
        self._unlooked_bytes = 0
        """The bytes that were written since the disk's room was looked at."""
        self.size_bytes = size_bytes
        """The bytes that are there."""

    def write(self, data: bytes | bytearray) -> None:
        """Write at the end; what fits of it is there when that fails. Raises `StorageFull` or `JobsUnavailable`."""
        self._unlooked_bytes += len(data)
        if self._unlooked_bytes >= LOOK_EVERY_BYTES:
            self._folder.check_room(len(data))
            self._unlooked_bytes = 0
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, self.size_bytes)
                self.size_bytes += written
                view = view[written:]
        except OSError as exc:
            raise _failed(exc) from exc

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return bytes from a place on; fewer at the end."""
        try:
            return os.pread(self._descriptor, size_bytes, offset)
        except OSError as exc:
            raise _failed(exc) from exc

    def restart(self) -> None:
        """Throw away what is there; raises `JobsUnavailable`."""
        try:
            os.ftruncate(self._descriptor, 0)
        except OSError as exc:
            raise _failed(exc) from exc
        self.size_bytes = 0

    def finish(self) -> None:
        """Bring the whole file to the disk and to its place; raises `FileNotFound`: it was deleted meanwhile."""
        try:
            os.fsync(self._descriptor)
            if self._part is not None:
                self._part.replace(self._path)
                self._part = None
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except FileNotFoundError as exc:
            raise FileNotFound(f"the file {self._path.name} was deleted while it arrived") from exc
        except OSError as exc:
            raise _failed(exc) from exc

    def close(self) -> None:
        """Bring what is there to the disk, and let others write; may be told again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):  # what is not on the disk is sent again: the offset tells
                os.fsync(descriptor)
            os.close(descriptor)


def _failed(error: OSError | ConfigError) -> StorageFull | JobsUnavailable:
    """Return the error for what the disk refused."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return StorageFull(
            "the disk for uploaded files is full; delete files that are done with, or tell the router's operator"
        )
    words = reason_of(error) if isinstance(error, OSError) else error.message
    return JobsUnavailable(f"the router cannot keep uploaded files: {words}; ask again later")
