"""The files of a models folder: their stamps, what they say, and that none lies outside. Reads files.

A file's content is read once for each of its stamps: what was learnt goes from one scan to the next.
"""

from __future__ import annotations

import os
import stat
import time
from collections import ChainMap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from capamesh.node.repository.chunks import MAX_VERSION_BYTES, MAX_VERSION_FILES, FileChunks
from capamesh.node.repository.content import VerifiedContent
from capamesh.node.repository.external_data import checked_location
from capamesh.node.repository.file_stamp import ContentChanged, FileStamp, opened, stamp_of
from capamesh.node.repository.limits import MAX_MANIFEST_BYTES
from capamesh.node.repository.manifest import parse_manifest
from capamesh.node.repository.onnx_scan import OnnxContents, contents_of
from capamesh.node.repository.origin import FolderOrigin
from capamesh.node.repository.triton.config_pbtxt import ONNX_FILE, ModelConfig, parse_config
from capamesh.protocol.errors import ModelInvalid

MAX_ONNX_BYTES: Final = 2**31 - 1  # protobuf reads no more; larger weights go to external data
MAX_WARM_UP_BYTES: Final = 256 * 2**20  # of one: tensors.Limits.max_message_bytes
SETTLE_NS: Final = 1_000_000_000  # guess: a copy in progress writes more often

MANIFEST_FILE: Final = "capamesh.toml"
CONFIG_FILE: Final = "config.pbtxt"

_Found = TypeVar("_Found")


class Unsettled(Exception):
    """A file was written a moment ago and may still be in the making."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The contents of files, or the reasons why they were refused, by their stamps. Filled by one scan, read by the next."""

    configs: dict[tuple[FileStamp, ...], ModelConfig | str] = field(default_factory=dict)
    contents: dict[FileStamp, OnnxContents | str] = field(default_factory=dict)
    """The contents of ONNX files."""
    chunks: dict[FileStamp, FileChunks] = field(default_factory=dict)
    signatures: dict[tuple[FileStamp, str, str], tuple[tuple[bytes, ...], str]] = field(
        default_factory=dict
    )
    """The good signatures of a file and a version with a digest, and what is wrong with others."""


class FolderFiles:
    """Reads below `root`, a path without links. `now_ns` tells which files are too new; None: none is."""

    def __init__(self, root: Path, before: Seen, now_ns: int | None) -> None:
        self.seen = Seen()
        self._root = root
        self.before = before
        self._now_ns = now_ns

    def check_inside(self, path: Path) -> None:
        """Raise ModelInvalid where `path` leads out of the folder."""
        real = Path(os.path.realpath(path))  # Path.resolve raises on a loop of links
        if not real.is_relative_to(self._root):
            raise ModelInvalid(
                f"{str(path)!r} leads to {str(real)!r}, outside the model folder; copy it inside"
            )

    def stamp(self, name: str, path: Path) -> FileStamp:
        """Return the stamp of `path`, whose folder is inside.

        Raises ModelInvalid: outside, no ordinary file; Unsettled; OSError.
        """
        if path.is_symlink():
            self.check_inside(path)
        return self._stamp(name, path, path.stat())

    def config(self, model: str, toml: Path, pbtxt: Path | None) -> ModelConfig:
        """Return what `toml`, or where it is missing `pbtxt`, says about `model`.

        Raises ModelInvalid, Unsettled, OSError.
        """
        stamps = tuple(
            self.stamp(path.name, path)
            for path in (toml, pbtxt)
            if path is not None and os.path.lexists(path)
        )
        if not stamps:
            return ModelConfig()

        def read() -> ModelConfig:
            first = stamps[0]
            with opened(first) as stream:
                raw = stream.read(MAX_MANIFEST_BYTES + 1)
            if first.path != toml:
                return parse_config(raw, str(first.path), model)
            notes = (f"{CONFIG_FILE} is ignored: {MANIFEST_FILE} is there too",)
            manifest = parse_manifest(raw, str(toml), model)
            return ModelConfig(manifest, notes=notes if len(stamps) > 1 else ())

        return _once(stamps, stamps, self.before.configs, self.seen.configs, read)

    def of_version(self, onnx_path: Path, beside: tuple[FileStamp, ...] = ()) -> VerifiedContent:
        """Return every file of the version whose ONNX file is `onnx_path`, and those `beside` its folder, verified.

        Raises ModelInvalid, Unsettled, OSError.
        """
        folder = onnx_path.parent
        onnx = self.stamp(ONNX_FILE, onnx_path)
        if not 0 < onnx.size_bytes <= MAX_ONNX_BYTES:
            raise ModelInvalid(
                f"{onnx_path.name} has {onnx.size_bytes} bytes, 1 to {MAX_ONNX_BYTES} are allowed; "
                "keep larger weights as external data"
            )
        files = {onnx.name: onnx}
        if folder != self._root:
            for stamp in self._walk(folder):
                if stamp.path != onnx_path:
                    files.setdefault(stamp.name, stamp)
        contents = self._contents(onnx)
        for location in _locations(onnx, contents):
            if location not in files:
                path = folder / location
                self.check_inside(path)
                files[location] = self.stamp(location, path)
        for stamp in beside:
            if stamp.name in files:
                raise ModelInvalid(
                    f"{stamp.name!r} is in the version's folder and beside it; remove one"
                )
            files[stamp.name] = stamp
        total_bytes = sum(file.size_bytes for file in files.values())
        if total_bytes > MAX_VERSION_BYTES or len(files) > MAX_VERSION_FILES:
            raise ModelInvalid(
                f"{len(files)} files of {total_bytes} bytes; at most {MAX_VERSION_FILES} files of "
                f"{MAX_VERSION_BYTES} bytes are allowed"
            )
        return self.verified(onnx_path, tuple(files.values()), contents)

    def verified(
        self,
        path: Path,
        files: tuple[FileStamp, ...],
        onnx: OnnxContents = OnnxContents(),  # noqa: B008 - immutable
    ) -> VerifiedContent:
        """Return `files` verified, each read once for each of its stamps. Raises ContentChanged, OSError."""
        content = FolderOrigin(
            path, files, onnx, ChainMap(self.seen.chunks, self.before.chunks)
        ).verified()
        self.keep(content)
        return content

    def keep(self, content: VerifiedContent) -> None:
        """Let the next scan know the chunks of a content by its stamps."""
        for file, chunks in zip(content.files, content.chunks.files, strict=True):
            if file.is_sure(content.verified_ns):
                self.seen.chunks[file] = chunks

    def _stamp(self, name: str, path: Path, status: os.stat_result) -> FileStamp:
        if not stat.S_ISREG(status.st_mode):
            raise ModelInvalid(f"{str(path)!r} is not an ordinary file")
        if self._now_ns is not None and abs(self._now_ns - status.st_mtime_ns) < SETTLE_NS:
            raise Unsettled
        return stamp_of(name, path, status)

    def _walk(self, top: Path) -> Iterator[FileStamp]:
        """Yield the files below `top`; raises ModelInvalid at a folder that is a link."""
        pending = [(top, "")]
        found = 0
        while pending:
            folder, prefix = pending.pop()
            for entry in entries(folder):
                found += 1
                if found > MAX_VERSION_FILES:
                    raise ModelInvalid(
                        f"{str(top)!r} holds more than {MAX_VERSION_FILES} files; keep only the "
                        "model's own there"
                    )
                path, name = folder / entry.name, prefix + entry.name
                if not entry.is_dir():
                    if entry.is_symlink():
                        self.check_inside(path)
                    yield self._stamp(name, path, entry.stat())
                elif entry.is_symlink():
                    raise ModelInvalid(f"{str(path)!r} is a link to a folder; copy it inside")
                else:
                    pending.append((path, f"{name}/"))

    def _contents(self, onnx: FileStamp) -> OnnxContents:
        """Return what the ONNX file holds."""

        def read() -> OnnxContents:
            with opened(onnx) as stream:
                return contents_of(stream)

        return _once(onnx, (onnx,), self.before.contents, self.seen.contents, read)


def _locations(onnx: FileStamp, contents: OnnxContents) -> list[str]:
    """Return the external files that the ONNX file names, as normalised relative paths."""
    names = {location: checked_location(location).as_posix() for location in contents.locations}
    for location, name in names.items():
        if name in {ONNX_FILE, onnx.path.name}:
            raise ModelInvalid(f"external data location {location!r} is the ONNX file's own name")
    return sorted(set(names.values()))


_Key = TypeVar("_Key")


def _once(
    key: _Key,
    files: tuple[FileStamp, ...],
    before: dict[_Key, _Found | str],
    seen: dict[_Key, _Found | str],
    read: Callable[[], _Found],
) -> _Found:
    """Return what `read` gives of `files`, or raise what it raised, asking it once for each `key`.

    What was read in the tick of a file's change is not remembered: other bytes of that tick would have the same stamp.
    """
    found = before.get(key)
    is_sure = True
    if found is None:
        began_ns = time.time_ns()
        is_sure = all(file.is_sure(began_ns) for file in files)
        try:
            found = read()
        except ContentChanged:
            raise
        except ModelInvalid as exc:
            found = exc.message
    if is_sure:
        seen[key] = found
    if isinstance(found, str):
        raise ModelInvalid(found)
    return found


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in `folder`, by name. Raises OSError."""
    with os.scandir(folder) as found:
        return sorted(found, key=lambda entry: entry.name)
