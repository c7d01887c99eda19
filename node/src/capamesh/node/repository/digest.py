"""The digest that names a model version by its content. Reads files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from capamesh.node.repository.source import FileStamp

_READ_BYTES: Final = 1 << 20  # guess: large enough that reading, not calls, sets the pace


def digest_of(files: Iterable[FileStamp]) -> str:
    """Return `sha256:<hex>` over the names and contents of `files`, which must be sorted by name.

    Each file adds its name, its size and its bytes, names and sizes as 8-byte little-endian lengths,
    so that no two lists of files give the same stream. Raises OSError.
    """
    hasher = hashlib.sha256()
    for file in files:
        name = file.name.encode("utf-8", "surrogateescape")
        hasher.update(len(name).to_bytes(8, "little") + name)
        hasher.update(file.size_bytes.to_bytes(8, "little"))
        with file.path.open("rb") as stream:
            while chunk := stream.read(_READ_BYTES):
                hasher.update(chunk)
    return f"sha256:{hasher.hexdigest()}"
