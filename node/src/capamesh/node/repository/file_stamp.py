"""The stamps that tell that a file has changed without reading it, and files that are read only while they have not. Reads files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from capamesh.protocol.errors import ModelInvalid

TICK_NS: Final = 20_000_000
"""The clock of file times stands still for as long: 1 to 10 ms by the kernel's configuration (guess: twice the longest)."""


class ContentChanged(ModelInvalid):
    """A file is not what it was a moment ago; nothing is known to be wrong with what it is now."""


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file of a model and what tells that it has changed without reading it."""

    name: str
    """Relative to the ONNX file's folder, with `/`; the ONNX file itself is always `model.onnx`."""
    path: Path
    size_bytes: int
    modified_ns: int
    changed_ns: int = 0
    """The time when its inode was last changed: a file put in another's place may bring that one's time and size."""
    inode: int = 0
    """The number of its inode: a link or a folder above it may lead to another file of the same size and times."""

    def is_sure(self, read_ns: int) -> bool:
        """Return whether a change after `read_ns`, when its reading began, gives another stamp: one in the same tick would not.

        A time far ahead is of a clock that was set back since: a change gives an earlier one.
        """
        return abs(read_ns - self.changed_ns) > TICK_NS


def stamp_of(name: str, path: Path, status: os.stat_result) -> FileStamp:
    """Return the stamp of the file at `path`, called `name`, that has `status`."""
    return FileStamp(
        name, path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    )


def open_ordinary(path: Path) -> FileIO:
    """Return the file at `path`, open for reading; to open a pipe in its place would wait for a writer, and this does not.

    Raises OSError: it cannot be opened, or is no ordinary file.
    """
    stream = FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return stream


@contextlib.contextmanager
def opened(file: FileStamp) -> Generator[FileIO]:
    """Yield the file that had the stamp, open; it has it still when it is closed.

    Raises ContentChanged: another file lies there, or it was written to meanwhile. OSError: it cannot be read.
    """
    with open_ordinary(file.path) as stream:
        _check(file, stream.fileno())
        yield stream
        _check(file, stream.fileno())


def _check(file: FileStamp, descriptor: int) -> None:
    if stamp_of(file.name, file.path, os.fstat(descriptor)) != file:
        raise changed(file)


def changed(file: FileStamp) -> ContentChanged:
    """Return the error that says that a file has changed."""
    return ContentChanged(
        f"{str(file.path)!r} was changed while it was read; write a file elsewhere and rename it into place"
    )
