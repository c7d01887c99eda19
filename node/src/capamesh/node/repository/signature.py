"""Reads who has signed a model version, from the file beside the model. Reads files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import ConfigError, ModelInvalid
from capamesh.protocol.model_digest import is_other_digest, short_digest
from capamesh.protocol.private_files import read_public
from capamesh.protocol.publishing import (
    MAX_FILE_BYTES,
    MAX_OTHERS,
    SIGNATURE_FILE,
    SignedVersion,
    is_signed,
    signatures_from_text,
)

if TYPE_CHECKING:
    from capamesh.node.repository.folder_files import FolderFiles


MAX_LINES: Final = 1024
"""The most lines: as many as fit into the file at some 240 bytes each."""


def signature_path(folder: Path | None, onnx: Path, name: str) -> Path:
    """Return where a model's signatures lie: in its `folder`, or beside its bare ONNX file."""
    return onnx.with_name(f"{name}.{SIGNATURE_FILE}") if folder is None else folder / SIGNATURE_FILE


def read_signatures(path: Path) -> list[SignedVersion]:
    """Return the lines of the file, not verified; none where there is no file. Raises `ConfigError`."""
    if not os.path.lexists(path):
        return []
    raw = read_public(path, "the signature file", limit_bytes=MAX_FILE_BYTES)
    return signatures_from_text(raw.decode("utf-8", "replace"))


def signatures_of(
    files: FolderFiles, path: Path, name: str, version: str, digest: str
) -> tuple[tuple[bytes, ...], str]:
    """Return the good signatures of a version for its advert, and what is wrong with the file.

    A file is read, and its signatures verified, once for each of its stamps. Raises Unsettled where it is being written.
    """
    try:
        if not os.path.lexists(path):
            return (), ""
        key = files.stamp(path.name, path), version, digest  # it is inside, and settled
        found = files.before.signatures.get(key)
        if found is None:
            found = _verified(path, name, version, digest)
    except (ModelInvalid, ConfigError, OSError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc.message
        return (), f"{path.name} is not used: {reason}"
    files.seen.signatures[key] = found
    return found


def _verified(path: Path, name: str, version: str, digest: str) -> tuple[tuple[bytes, ...], str]:
    lines = read_signatures(path)
    if len(lines) > MAX_LINES:
        raise ConfigError(f"it has {len(lines)} signatures, at most {MAX_LINES} are read")
    mine = [each for each in lines if each.version == version]
    # One of each publisher; lines of other files are not verified.
    candidates = {each.publisher: each.signed for each in mine if each.digest == digest}
    good: list[bytes] = []
    for signed in candidates.values():
        if len(good) <= MAX_OTHERS and is_signed(signed, name, version, digest):
            good.append(signed)
    if good or not mine:
        return tuple(good), ""
    if all(is_other_digest(each.digest) for each in mine):
        return (), (
            f"{path.name} signs version {version} by {short_digest(mine[0].digest)}…, a digest of another version of"
            " Capamesh: sign it again with `capamesh model sign`"
        )
    return (), (
        f"{path.name} has no good signature of version {version} with {short_digest(digest)}…, the files that are"
        " here: sign them again with `capamesh model sign`"
    )
