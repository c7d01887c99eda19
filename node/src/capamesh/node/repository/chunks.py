"""The chunk list of a model version: its files, and the SHA-256 of every 4 MiB of each. Pure.

The list is what a digest is of, so that whoever has the list and trusts the digest can verify each chunk alone, whoever
it comes from. It is written as msgpack in its shortest form: an array of one array for each file, sorted by name,

    [name, size, chunk_bytes, [sha256, ...]]

with the name as `bin`, since Linux's names are bytes, the size in bytes, the constant `CHUNK_BYTES`, and a `bin` of 32 bytes
for each chunk. All chunks of a file but the last have `CHUNK_BYTES`; a file of no bytes has no chunk.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

from capamesh.protocol.model_digest import digest_of
from capamesh.protocol.msgpack_codec import pack

CHUNK_BYTES: Final = 4 * 2**20
MAX_VERSION_BYTES: Final = 256 * 2**30  # guess: more than any one device's memory
MAX_VERSION_FILES: Final = 10_000  # guess: a large model exported with one file a tensor has 1,000


class FileChunks(NamedTuple):
    """One file of a model version, by what it must be."""

    name: str
    """The path below the version's folder, with `/`; bytes that are no UTF-8 are surrogates, as `os.fsdecode` gives them."""
    size_bytes: int
    hashes: tuple[bytes, ...]
    """The SHA-256 of each chunk."""

    def chunk_size(self, index: int) -> int:
        """Return how many bytes the chunk at `index` has. Raises IndexError: there is none."""
        if not 0 <= index < len(self.hashes):
            raise IndexError(index)
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def chunk_problem(self, index: int, data: bytes | memoryview) -> str:
        """Return why `data` is not the chunk at `index`; "" if it is."""
        if not 0 <= index < len(self.hashes):
            return f"{self.name!r} has {len(self.hashes)} chunks, none with the index {index}"
        size_bytes = memoryview(data).nbytes
        if size_bytes != self.chunk_size(index):
            return f"chunk {index} of {self.name!r} has {size_bytes} bytes, expected {self.chunk_size(index)}"
        if hashlib.sha256(data).digest() != self.hashes[index]:
            return f"chunk {index} of {self.name!r} has other bytes than its hash says"
        return ""


class ChunkHasher:
    """Hashes a file's bytes as they come, in pieces of any size, and keeps none of them."""

    __slots__ = ("_hasher", "_hashes", "_room_bytes", "_size_bytes")

    def __init__(self) -> None:
        self._hashes: list[bytes] = []
        self._hasher = hashlib.sha256()
        self._room_bytes = CHUNK_BYTES
        self._size_bytes = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the file's next bytes."""
        view = memoryview(data).cast("B")
        self._size_bytes += len(view)
        while view:
            self._hasher.update(view[: self._room_bytes])
            taken = min(len(view), self._room_bytes)
            self._room_bytes -= taken
            view = view[taken:]
            if not self._room_bytes:
                self._end_chunk()

    def finish(self, name: str) -> FileChunks:
        """Return what the file called `name` was; nothing may be taken afterwards."""
        if self._room_bytes < CHUNK_BYTES:
            self._end_chunk()
        return FileChunks(name, self._size_bytes, tuple(self._hashes))

    def _end_chunk(self) -> None:
        self._hashes.append(self._hasher.digest())
        self._hasher = hashlib.sha256()
        self._room_bytes = CHUNK_BYTES


@dataclass(frozen=True, slots=True)
class ChunkList:
    """The files of a model version, sorted by the bytes of their names."""

    files: tuple[FileChunks, ...]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    def packed(self) -> bytes:
        """Return the list as it is written down, of which the digest is."""
        return pack(
            [[_raw(file.name), file.size_bytes, CHUNK_BYTES, file.hashes] for file in self.files]
        )

    def digest(self) -> str:
        """Return the digest of the model version that has these files."""
        return digest_of(hashlib.sha256(self.packed()).digest())

    def file(self, name: str) -> FileChunks | None:
        """Return the file called `name`; None: the list has none."""
        return next((file for file in self.files if file.name == name), None)


def listed(files: list[FileChunks]) -> ChunkList:
    """Return the list of `files`, which have different names, in any order."""
    return ChunkList(tuple(sorted(files, key=lambda file: _raw(file.name))))


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
