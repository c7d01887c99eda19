"""The places that the files of a model version come from. Reads files.

Nothing that an origin has is believed: `verified` gives what was seen to have the bytes that a digest names, and a loader
takes that alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from typing_extensions import override

from capamesh.node.repository.chunks import FileChunks, listed
from capamesh.node.repository.content import VerifiedContent, hash_file
from capamesh.node.repository.file_stamp import FileStamp
from capamesh.node.repository.onnx_scan import OnnxContents

_NOTHING: Final[Mapping[FileStamp, FileChunks]] = MappingProxyType({})


class ModelOrigin(Protocol):
    """One place that one model version can be had from."""

    def verified(self) -> VerifiedContent:
        """Return the files as they lie on this machine now, verified. Blocks, as long as all of them take to read.

        Raises:
            ModelInvalid: the origin gives other bytes than it said, or they change meanwhile.
            OSError: a file cannot be read or written.
        """
        ...


class FolderOrigin(ModelOrigin):
    """Files of this machine, which are read where they lie: their digest is what they have."""

    def __init__(
        self,
        path: Path,
        files: tuple[FileStamp, ...],
        onnx: OnnxContents = OnnxContents(),  # noqa: B008 - immutable
        known: Mapping[FileStamp, FileChunks] = _NOTHING,
    ) -> None:
        """Take `files`, whose model is at `path` and holds `onnx`; what is `known` by its stamp is not read again."""
        self._path = path
        self._files = files
        self._onnx = onnx
        self._known = known

    @override
    def verified(self) -> VerifiedContent:
        began_ns = time.time_ns()
        hashed = {file.name: self._known.get(file) or hash_file(file) for file in self._files}
        chunks = listed(list(hashed.values()))
        by_name = {file.name: file for file in self._files}
        return VerifiedContent(
            self._path,
            chunks.digest(),
            chunks.size_bytes,
            chunks,
            tuple(by_name[file.name] for file in chunks.files),
            began_ns,
            self._onnx,
        )
