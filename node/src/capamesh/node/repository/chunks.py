"""The chunk list of a model version: its files, and the SHA-256 of every 4 MiB of each. Pure.

The list is what a digest is of, so that whoever has the list and trusts the digest can verify each chunk alone, whoever
it comes from. It is written as msgpack in its shortest form: an array of one array for each file, sorted by name,

    [name, size, chunk_bytes, [sha256, ...]]

with the name as `bin`, since Linux's names are bytes, the size in bytes, the constant `CHUNK_BYTES`, and a `bin` of 32 bytes
for each chunk. All chunks of a file but the last have `CHUNK_BYTES`; a file of no bytes has no chunk.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final, NamedTuple, TypeAlias

from capamesh.protocol.errors import ModelInvalid
from capamesh.protocol.model_digest import digest_of, short_digest
from capamesh.protocol.msgpack_codec import pack
from capamesh.protocol.schema import Meta, msgpack_reader

CHUNK_BYTES: Final = 4 * 2**20
HASH_BYTES: Final = 32
MAX_VERSION_BYTES: Final = 256 * 2**30  # guess: more than any one device's memory
MAX_VERSION_FILES: Final = 10_000  # guess: a large model exported with one file a tensor has 1,000
MAX_LIST_BYTES: Final = 16 * 2**20
"""A list of `MAX_VERSION_BYTES` has 2.2 MB of hashes, and its names have room for 1,000 characters each."""
MAX_NAME_BYTES: Final = 4096  # Linux's PATH_MAX
MAX_PART_BYTES: Final = 255  # Linux's NAME_MAX

_Hash: TypeAlias = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
_Entry: TypeAlias = tuple[bytes, int, int, tuple[_Hash, ...]]
"""One file as it is written in the list."""
_Entries: TypeAlias = Annotated[
    tuple[_Entry, ...], Meta(min_length=1, max_length=MAX_VERSION_FILES)
]
_read_entries: Callable[[bytes], tuple[_Entry, ...]] = msgpack_reader(
    _Entries  # pyright: ignore[reportArgumentType] - it takes no `Annotated` for a type
)
"""Holds nothing that does not fit, so that a list takes no more memory than a good one of its length."""


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


def read_chunk_list(raw: bytes, digest: str) -> ChunkList:
    """Return the list in `raw`, which anybody may have sent, of the model version that `digest` names.

    Raises ModelInvalid: it is another version's, or no list that this version would write: its names must be paths below a folder,
    its sizes and its numbers of hashes must fit, and none may be over its limit.
    """
    if len(raw) > MAX_LIST_BYTES:
        raise ModelInvalid(
            f"a chunk list of {len(raw)} bytes; at most {MAX_LIST_BYTES} are allowed"
        )
    found = digest_of(hashlib.sha256(raw).digest())
    if found != digest:
        raise ModelInvalid(
            f"the chunk list is of {short_digest(found)}, expected {short_digest(digest)}"
        )
    try:
        entries = _read_entries(raw)
    except ValueError as exc:
        raise ModelInvalid(f"the chunk list cannot be read: {exc}") from exc
    found_list = ChunkList(tuple(_file(entry) for entry in entries))
    if found_list.size_bytes > MAX_VERSION_BYTES:
        raise ModelInvalid(
            f"a chunk list of {found_list.size_bytes} bytes; at most {MAX_VERSION_BYTES} are allowed"
        )
    _check_names([_raw(file.name) for file in found_list.files])
    if found_list.packed() != raw:
        raise ModelInvalid("the chunk list is not in the shortest form of msgpack")
    return found_list


def _file(entry: _Entry) -> FileChunks:
    name, size_bytes, chunk_bytes, hashes = entry
    shown = _text(name[:80])
    if chunk_bytes != CHUNK_BYTES:
        raise ModelInvalid(f"{shown!r} has chunks of {chunk_bytes} bytes, expected {CHUNK_BYTES}")
    if not 0 <= size_bytes <= MAX_VERSION_BYTES:
        raise ModelInvalid(
            f"{shown!r} has {size_bytes} bytes; 0 to {MAX_VERSION_BYTES} are allowed"
        )
    expected = -(-size_bytes // CHUNK_BYTES)
    if len(hashes) != expected:
        raise ModelInvalid(
            f"{shown!r} of {size_bytes} bytes has {len(hashes)} hashes, expected {expected}"
        )
    return FileChunks(_text(name), size_bytes, hashes)


def _check_names(names: list[bytes]) -> None:
    """Raise ModelInvalid where a name is no path below a folder, or all are not those of files that can be beside each other."""
    for name in names:
        parts = name.split(b"/")
        is_path = len(name) <= MAX_NAME_BYTES and b"\0" not in name
        if not is_path or any(
            part in {b"", b".", b".."} or len(part) > MAX_PART_BYTES for part in parts
        ):
            raise ModelInvalid(f"{_text(name[:80])!r} is no path of a file below a model's folder")
    for before, after in pairwise(names):
        if before >= after:
            raise ModelInvalid(f"{_text(after[:80])!r} stands twice, or not in its order")
    for name in names:
        # not a set of all folders: one name of 4 kB may have 2,000 of them
        first = bisect_left(names, below := name + b"/")
        if first < len(names) and names[first].startswith(below):
            raise ModelInvalid(f"{_text(name[:80])!r} is a file and a folder")


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
