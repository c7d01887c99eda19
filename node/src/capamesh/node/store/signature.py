"""Reads who has signed a model version, from the file beside the model. Reads files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError, ModelInvalid
from capamesh.protocol.private_files import read_public
from capamesh.protocol.publishing import (
    MAX_FILE_BYTES,
    SIGNATURE_FILE,
    SignedVersion,
    is_signed,
    signatures_from_text,
)

if TYPE_CHECKING:
    from capamesh.node.store.folder_files import FolderFiles


def signature_path(folder: Path | None, onnx: Path, name: str) -> Path:
    """Return where a model's signatures lie: in its `folder`, or beside its bare ONNX file."""
    return onnx.with_name(f"{name}.{SIGNATURE_FILE}") if folder is None else folder / SIGNATURE_FILE


def read_signatures(path: Path) -> list[SignedVersion]:
    """Return the lines of the file, not verified; none where there is no file. Raises `ConfigError`."""
    if not os.path.lexists(path):
        return []
    raw = read_public(path, "the signature file", limit_bytes=MAX_FILE_BYTES)
    return signatures_from_text(raw.decode("utf-8", "replace"))


def signature_of(
    files: FolderFiles, path: Path, name: str, version: str, digest: str
) -> tuple[bytes, str]:
    """Return the signature of a version for its advert, b"" without a good one, and what is wrong with the file.

    Raises Unsettled where the file is being written.
    """
    try:
        if not os.path.lexists(path):
            return b"", ""
        files.stamp(path.name, path)  # it is inside, and settled
        mine = [each for each in read_signatures(path) if each.version == version]
    except (ModelInvalid, ConfigError, OSError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc.message
        return b"", f"{path.name} is not used: {reason}"
    for each in mine:
        if each.digest == digest and is_signed(each.signed, name, version, digest):
            return each.signed, ""
    if not mine:
        return b"", ""
    return b"", (
        f"{path.name} has no good signature of version {version} with {digest[:19]}…, the files that are"
        " here: sign them again with `capamesh model sign`"
    )
