"""The names of a file's requests, each of which may be there once: a table of digests with a known size. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

DIGEST_BYTES: Final = 16
"""The bytes of a digest: two of a million names have the same by chance once in 10^26 files."""
_TABLES: Final = 256
"""The tables, of which each grows by itself: one of 4,000 digests in a millisecond (guess)."""
_LEAST_PLACES: Final = 16
_EMPTY: Final = bytes(DIGEST_BYTES)


class CustomIds:
    """The names that were met, by their digests: 24 to 48 bytes for each, whatever its length."""

    def __init__(self, salt: bytes) -> None:
        """`salt`, which nobody can guess, keeps a stranger from choosing names that fall together."""
        self._salt = salt
        self._tables = [bytearray(_LEAST_PLACES * DIGEST_BYTES) for _ in range(_TABLES)]
        self._counts = [0] * _TABLES

    @property
    def size_bytes(self) -> int:
        """Return the memory of all tables."""
        return sum(map(len, self._tables))

    def add(self, name: str) -> bool:
        """Take in a name; return False if it was met before."""
        raw = name.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(raw, digest_size=DIGEST_BYTES, key=self._salt).digest()
        which = digest[0]
        table = self._tables[which]
        if not _put(table, digest):
            return False
        self._counts[which] += 1
        if 3 * DIGEST_BYTES * self._counts[which] > 2 * len(table):
            self._tables[which] = _grown(table)
        return True


def _put(table: bytearray, digest: bytes) -> bool:
    """Put a digest into the first free place from its own on; return False if it is there."""
    at = int.from_bytes(digest[1:9], "little") * DIGEST_BYTES % len(table)
    while True:
        if table.startswith(digest, at):
            return False
        if table.startswith(_EMPTY, at):
            table[at : at + DIGEST_BYTES] = digest
            return True
        at = (at + DIGEST_BYTES) % len(table)


def _grown(table: bytearray) -> bytearray:
    """Return a table of twice the places with the same digests."""
    larger = bytearray(2 * len(table))
    for at in range(0, len(table), DIGEST_BYTES):
        digest = bytes(table[at : at + DIGEST_BYTES])
        if digest != _EMPTY:
            _put(larger, digest)
    return larger
