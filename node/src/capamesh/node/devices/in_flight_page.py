"""A page of memory, kept in a file, in which a worker marks what it executes. IO: one memory-mapped file.

When a worker dies in native code (a segmentation fault, an abort, SIGKILL) none of its Python runs any more; the
file still says what was being executed, and its owner, the agent, reads it. A mark carries the model's name
itself, so that nothing that the dead worker once knew is needed to understand it.

The file has `SLOTS` records of `SLOT_BYTES` bytes: CRC-32 of the rest of the record up to the end of its text, phase
(0: free), the lengths in bytes of name, version and digest, then these three as UTF-8. The last `_REQUEST.size` bytes
are of the request that runs: CRC-32 of the rest, its size where that is unusual, its digest; zeros where none is told.
Little-endian.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self

from capamesh.node.devices.request_digest import DIGEST_BYTES
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.model_digest import DIGEST_CHARS
from capamesh.protocol.private_files import replace_private

if TYPE_CHECKING:
    from pathlib import Path

SLOTS: Final = 64
"""The most things that are marked at once (guess: four times the instances and loads of a busy device)."""
SLOT_BYTES: Final = 384
"""The header and the longest text, in whole cache lines of 64 bytes."""
PAGE_BYTES: Final = SLOTS * SLOT_BYTES

MAX_NAME_BYTES: Final = 256
"""The longest name, as in the models folder: 256 characters, all ASCII."""
MAX_VERSION_BYTES: Final = 20
"""The longest version, as in an advert: 20 decimal digits."""
MAX_DIGEST_BYTES: Final = DIGEST_CHARS
"""The longest digest, as in an advert: all ASCII."""

_HEADER: Final = struct.Struct("<IBHBB")  # CRC-32, phase, bytes of name, version and digest
_REQUEST: Final = struct.Struct(f"<IQ{DIGEST_BYTES}s")  # CRC-32, bytes of inputs, digest
_REQUEST_AT: Final = SLOT_BYTES - _REQUEST.size
_PHASE_AT: Final = 4
"""The place of the phase in a record: after its CRC-32."""


class Phase(IntEnum):
    """The phase of a model: what is being done with it."""

    LOADING = 1
    RUNNING = 2
    BULK = 3
    """The model runs bulk requests, or others with them."""


@dataclass(frozen=True, slots=True)
class Marked:
    """The content of a slot."""

    name: str
    version: str
    phase: Phase
    digest: str = ""
    """Empty where the worker did not tell."""
    request: str = ""
    """The digest of the only request that runs, in hexadecimal; empty where several do, or it was not told."""
    large_bytes: int = 0
    """The size of the inputs, where that is more than a model's usual requests have."""


class InFlightPage:
    """The marks of one worker's life. One process writes, each thread in slots of its own; another reads."""

    def __init__(self, path: Path) -> None:
        """Open the file that `create` made; raise `ConfigError` when it cannot be."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise ConfigError(f"cannot open the running page {path}: {exc.strerror}") from exc
        try:
            self._map = mmap.mmap(self._descriptor, PAGE_BYTES)
        except (OSError, ValueError) as exc:  # ValueError: it is shorter
            os.close(self._descriptor)
            raise ConfigError(
                f"cannot map {PAGE_BYTES} bytes of the running page {path}: {exc}"
            ) from exc
        self._records: dict[int, tuple[bytes, ...]] = {}
        self._slices = tuple(
            slice(start, start + SLOT_BYTES) for start in range(0, PAGE_BYTES, SLOT_BYTES)
        )

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make an empty page of mode 0600 in place of whatever `path` holds, and open it.

        A worker of an earlier life that is still about keeps the old file. `ConfigError`: the file system
        refuses; as all its bytes are written here, a disk that fills later cannot harm a writer.
        """
        replace_private(path, bytes(PAGE_BYTES))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the page that `create` made; raise `ConfigError` when it cannot be."""
        return cls(path)

    def name(self, number: int, name: str, version: str, digest: str = "") -> None:
        """Say which model `begin` will mean by `number`, in this process.

        `ValueError`: a text is longer than its limit above.
        """
        texts = [text.encode("utf-8", "replace") for text in (name, version, digest)]
        limits = (MAX_NAME_BYTES, MAX_VERSION_BYTES, MAX_DIGEST_BYTES)
        for text, limit in zip(texts, limits, strict=True):
            if len(text) > limit:
                raise ValueError(f"{text!r} has {len(text)} bytes; at most {limit} fit into a slot")
        self._records[number] = (b"", *(_record(phase, *texts) for phase in Phase))

    def forget(self, number: int) -> None:
        """`begin` is not given `number` any more, unless `name` is before."""
        self._records.pop(number, None)

    def begin(self, slot: int, number: int, phase: Phase) -> None:
        """Mark in `slot` that model `number` is being executed. Takes well under a microsecond.

        `IndexError`: `slot` is not below `SLOTS`; `KeyError`: `number` has no name yet.
        """
        self._map[self._slices[slot]] = self._records[number][phase]

    def tell(self, slot: int, request: bytes, large_bytes: int) -> None:
        """Say which request runs in `slot`, which has begun: see `Marked`."""
        start = slot * SLOT_BYTES + _REQUEST_AT
        text = _REQUEST.pack(0, large_bytes, request)[_PHASE_AT:]
        crc = zlib.crc32(text).to_bytes(_PHASE_AT, "little")
        self._map[start : start + _REQUEST.size] = crc + text

    def end(self, slot: int) -> None:
        """Clear `slot`; again is harmless."""
        self._map[slot * SLOT_BYTES + _PHASE_AT] = 0

    def marked(self) -> list[Marked]:
        """Return what is marked now, in the order of the slots; a slot with anything but a whole record is free.

        Reads the file and not the map, which would end this process if someone had cut the file short.
        """
        try:
            data = os.pread(self._descriptor, PAGE_BYTES, 0)
        except OSError:
            return []
        found = (_read(data[self._slices[slot]]) for slot in range(SLOTS))
        return [marked for marked in found if marked is not None]

    def close(self) -> None:
        """Let go of the file; only once."""
        self._map.close()
        os.close(self._descriptor)


def _record(phase: Phase, name: bytes, version: bytes, digest: bytes) -> bytes:
    text = name + version + digest
    checked = _HEADER.pack(0, phase, len(name), len(version), len(digest))[_PHASE_AT:] + text
    record = zlib.crc32(checked).to_bytes(_PHASE_AT, "little") + checked
    return record.ljust(SLOT_BYTES, b"\0")


def _read(record: bytes) -> Marked | None:
    """Return what a slot says, or None where it is free, cut short or scribbled over."""
    if len(record) != SLOT_BYTES:
        return None
    crc, phase, name_bytes, version_bytes, digest_bytes = _HEADER.unpack_from(record)
    name_end = _HEADER.size + name_bytes
    version_end = name_end + version_bytes
    digest_end = version_end + digest_bytes
    if digest_end > _REQUEST_AT or zlib.crc32(record[_PHASE_AT:digest_end]) != crc:
        return None
    request, large_bytes = _read_request(record)
    try:
        return Marked(
            request=request,
            large_bytes=large_bytes,
            name=record[_HEADER.size : name_end].decode("utf-8"),
            version=record[name_end:version_end].decode("utf-8"),
            phase=Phase(phase),
            digest=record[version_end:digest_end].decode("utf-8"),
        )
    except ValueError:  # no phase, or no UTF-8
        return None


def _read_request(record: bytes) -> tuple[str, int]:
    crc, large_bytes, digest = _REQUEST.unpack_from(record, _REQUEST_AT)
    if not any(record[_REQUEST_AT:]) or zlib.crc32(record[_REQUEST_AT + _PHASE_AT :]) != crc:
        return "", 0
    return digest.hex(), large_bytes
