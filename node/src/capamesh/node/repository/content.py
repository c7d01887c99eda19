"""Files of a model version whose bytes are those that its digest names. Reads files."""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Final

from capamesh.node.repository.chunks import CHUNK_BYTES, ChunkHasher, ChunkList, FileChunks
from capamesh.node.repository.file_stamp import (
    ContentChanged,
    FileStamp,
    changed,
    open_ordinary,
    opened,
    stamp_of,
)
from capamesh.node.repository.onnx_scan import OnnxContents

_READ_BYTES: Final = 1 << 20  # guess: large enough that reading, not calls, sets the pace


def hash_file(file: FileStamp) -> FileChunks:
    """Return the chunks of a file, which is read once and never held. Raises ContentChanged, OSError."""
    hasher = ChunkHasher()
    buffer = memoryview(bytearray(_READ_BYTES))
    left_bytes = file.size_bytes
    with opened(file) as stream:
        while count := stream.readinto(buffer):
            left_bytes -= count
            if left_bytes < 0:  # it grows: it might never end
                raise changed(file)
            hasher.update(buffer[:count])
    return hasher.finish(file.name)


@dataclass(frozen=True, slots=True)
class VerifiedContent:
    """The files of one model version, verified: made by a `ModelOrigin` alone, from bytes that it has seen.

    Equal contents have the same bytes at the same place.
    """

    path: Path
    """The ONNX file; of a pipeline, the model's folder. A loader takes it from `reading`."""
    digest: str
    """The digest of `chunks`."""
    size_bytes: int
    """The bytes of all files."""
    chunks: ChunkList = field(repr=False, compare=False)
    files: tuple[FileStamp, ...] = field(repr=False, compare=False)
    """The files as they were when their bytes were verified, sorted by name."""
    verified_ns: int = field(repr=False, compare=False)
    """The time when their verification began, in nanoseconds since the epoch."""
    onnx: OnnxContents = field(default=OnnxContents(), repr=False, compare=False)
    """The contents of the ONNX file, of the same bytes; nothing of a pipeline."""

    @contextlib.contextmanager
    def reading(self) -> Generator[Path]:
        """Yield the path to whoever loads the files, and see that they were the verified ones from begin to end.

        Files whose stamps are not those of their verification, or were too new then to tell of a change, are verified
        anew: to touch a file is harmless.
        Raises ContentChanged: their bytes are others, or they were changed while they were loaded. OSError.
        """
        began_ns = time.time_ns()
        files = self._verified_now()
        yield self.path
        for file, chunks in zip(files, self.chunks.files, strict=True):
            if _now(file) != file:
                raise changed(file)
            if not file.is_sure(began_ns):
                self._check(file, chunks)

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file of the content, which are the verified ones.

        Raises ContentChanged: they are others now. OSError. KeyError: the content has no such file.
        """
        chunks = self.chunks.file(name)
        file = next((file for file in self.files if file.name == name), None)
        if chunks is None or file is None:
            raise KeyError(name)
        _now(file)
        with BufferedReader(open_ordinary(file.path)) as stream:
            raw = stream.read(file.size_bytes + 1)
        parts = range(0, len(raw), CHUNK_BYTES)
        is_verified = len(raw) == chunks.size_bytes and not any(
            chunks.chunk_problem(index, raw[start : start + CHUNK_BYTES])
            for index, start in enumerate(parts)
        )
        if not is_verified:
            raise self._others(file)
        return raw

    def _verified_now(self) -> list[FileStamp]:
        """Return the stamps that the files have now, whose bytes are still the verified ones."""
        files: list[FileStamp] = []
        for known, chunks in zip(self.files, self.chunks.files, strict=True):
            file = _now(known)
            if file != known or not known.is_sure(self.verified_ns):
                self._check(file, chunks)
            files.append(file)
        return files

    def _check(self, file: FileStamp, chunks: FileChunks) -> None:
        if hash_file(file) != chunks:
            raise self._others(file)

    def _others(self, file: FileStamp) -> ContentChanged:
        return ContentChanged(
            f"{str(file.path)!r} has other bytes than {self.digest} was taken from; it is read anew at the"
            " next look into the folder"
        )


def _now(file: FileStamp) -> FileStamp:
    """Return the stamp that the file has now. Raises ContentChanged: it is no ordinary file, which might never be open. OSError."""
    status = file.path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise changed(file)
    return stamp_of(file.name, file.path, status)
