"""Finds the models in a folder, and says of each that it cannot host why. Reads files.

One broken model never hides the others. Nothing outside the folder is read: links that leave it are
refused. Copy a model elsewhere and rename it into place, else a scan may see half of it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from capamesh.node.store.digest import digest_of
from capamesh.node.store.external_data import checked_location, external_locations
from capamesh.node.store.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from capamesh.node.store.source import FileStamp, ModelSource
from capamesh.protocol.errors import ConfigError, ModelInvalid
from capamesh.protocol.ids import ModelName, ModelVersion

MAX_ONNX_BYTES: Final = 2**31 - 1  # protobuf reads no more; larger weights go to external data
MAX_VERSION_BYTES: Final = 256 * 2**30  # guess: more than any one device's memory
MAX_VERSION_FILES: Final = 10_000  # guess: a large model exported with one file a tensor has 1,000

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,255}")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")  # fits a signed 64-bit number
_ONNX_FILE: Final = "model.onnx"
_MANIFEST_FILE: Final = "capamesh.toml"
_BARE_VERSION: Final = ModelVersion("1")


@dataclass(frozen=True, slots=True)
class Refused:
    """A model or one version of it that cannot be hosted."""

    name: str
    """As its folder or file is called, which may be no valid model name."""
    version: str
    """Empty where the whole model is refused."""
    reason: str


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder held: models that can be loaded, and those that cannot, sorted by name and version."""

    models: tuple[ModelSource, ...] = ()
    refused: tuple[Refused, ...] = ()


def scan(root: Path, *, before: Scan | None = None) -> Scan:
    """Return the models under `root`.

    Digests are taken over from the scan `before` for files whose size and modification time are the same.
    Raises ConfigError where `root` is no folder that can be read.
    """
    try:
        real_root = root.resolve(strict=True)
        entries = sorted(real_root.iterdir())
    except OSError as exc:
        raise ConfigError(
            f"the model folder {str(root)!r} cannot be read: {exc.strerror}; "
            "create it or name another"
        ) from exc
    return _Scanner(real_root, before or Scan()).scan(entries)


class _Scanner:
    """One pass over a folder."""

    def __init__(self, root: Path, before: Scan) -> None:
        self._root = root
        self._digests = {source.files: source.digest for source in before.models}
        self._models: dict[tuple[str, str], ModelSource] = {}
        self._refused: list[Refused] = []

    def scan(self, entries: list[Path]) -> Scan:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                is_folder = entry.is_dir()
            except OSError as exc:
                self._refuse(entry.name, "", exc)
                continue
            if is_folder:
                self._scan_folder(entry)
            elif entry.suffix == ".onnx":
                self._scan_bare(entry)
        return Scan(
            tuple(
                sorted(self._models.values(), key=lambda model: (model.name, int(model.version)))
            ),
            tuple(sorted(self._refused, key=lambda refused: (refused.name, refused.version))),
        )

    def _scan_folder(self, folder: Path) -> None:
        """Add the versions in `folder`, a model in Triton's layout."""
        name = folder.name
        try:
            model = _checked_name(name)
            self._check_inside(folder)
            manifest = self._manifest(folder / _MANIFEST_FILE)
            versions = _version_folders(folder)
        except (ModelInvalid, OSError) as exc:
            self._refuse(name, "", exc)
            return
        for version in versions:
            self._add(model, version.name, version / _ONNX_FILE, manifest)

    def _scan_bare(self, file: Path) -> None:
        """Add `file`, a model without a folder of its own."""
        name = file.stem
        try:
            model = _checked_name(name)
            manifest = self._manifest(file.with_name(f"{name}.{_MANIFEST_FILE}"))
        except (ModelInvalid, OSError) as exc:
            self._refuse(name, "", exc)
            return
        self._add(model, _BARE_VERSION, file, manifest)

    def _add(self, name: ModelName, version: str, path: Path, manifest: Manifest) -> None:
        """Add one version, or why it is refused."""
        try:
            self._check_version(name, version, path)
            files = self._files(path)
            digest = self._digests.get(files) or digest_of(files)
        except (ModelInvalid, OSError) as exc:
            self._refuse(name, version, exc)
            return
        self._models[name, version] = ModelSource(
            name=name,
            version=ModelVersion(version),
            path=path,
            digest=digest,
            size_bytes=sum(file.size_bytes for file in files),
            manifest=manifest,
            files=files,
        )

    def _check_version(self, name: ModelName, version: str, path: Path) -> None:
        if not _VERSION.fullmatch(version):
            raise ModelInvalid(
                f"version {version!r} is not a decimal number from 1 without a leading zero"
            )
        if (name, version) in self._models:
            raise ModelInvalid(
                f"version {version} is there twice, as a folder and as {path.name!r}; remove one"
            )

    def _files(self, path: Path) -> tuple[FileStamp, ...]:
        """Return every file of the version whose ONNX file is `path`, sorted by name."""
        folder = path.parent
        onnx = self._stamp(_ONNX_FILE, path)
        if not 0 < onnx.size_bytes <= MAX_ONNX_BYTES:
            raise ModelInvalid(
                f"{path.name} has {onnx.size_bytes} bytes, 1 to {MAX_ONNX_BYTES} are allowed; "
                "keep larger weights as external data"
            )
        files = {onnx.name: onnx}
        if folder != self._root:
            for member in _walk(folder):
                name = member.relative_to(folder).as_posix()
                files.setdefault(name, self._stamp(name, member))
        for location in _locations(path):
            if location not in files:
                files[location] = self._stamp(location, folder / location)
        total_bytes = sum(file.size_bytes for file in files.values())
        if total_bytes > MAX_VERSION_BYTES or len(files) > MAX_VERSION_FILES:
            raise ModelInvalid(
                f"{len(files)} files of {total_bytes} bytes; at most {MAX_VERSION_FILES} files of "
                f"{MAX_VERSION_BYTES} bytes are allowed"
            )
        return tuple(files[name] for name in sorted(files))

    def _stamp(self, name: str, path: Path) -> FileStamp:
        self._check_inside(path)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelInvalid(f"{str(path)!r} is not an ordinary file")
        return FileStamp(name, path, status.st_size, status.st_mtime_ns)

    def _manifest(self, path: Path) -> Manifest:
        if not path.exists():
            return Manifest()
        stamp = self._stamp(path.name, path)
        with stamp.path.open("rb") as stream:
            return parse_manifest(stream.read(MAX_MANIFEST_BYTES + 1), str(path))

    def _check_inside(self, path: Path) -> None:
        real = Path(os.path.realpath(path))  # Path.resolve raises on a loop of links
        if not real.is_relative_to(self._root):
            raise ModelInvalid(
                f"{str(path)!r} leads to {str(real)!r}, outside the model folder; copy it inside"
            )

    def _refuse(self, name: str, version: str, error: ModelInvalid | OSError) -> None:
        reason = error.message if isinstance(error, ModelInvalid) else _os_reason(error)
        self._refused.append(Refused(name, version, reason))


def _checked_name(name: str) -> ModelName:
    if not _NAME.fullmatch(name):
        raise ModelInvalid(
            f"{name!r} is no model name: 1 to 256 letters, digits, '.', '_' and '-', no dot first"
        )
    return ModelName(name)


def _version_folders(folder: Path) -> list[Path]:
    versions = sorted(path for path in folder.iterdir() if path.name.isdecimal())
    if not versions:
        raise ModelInvalid(
            f"{folder.name!r} has no version folder; put the model at 1/{_ONNX_FILE}"
        )
    return versions


def _locations(path: Path) -> Iterator[str]:
    """Yield the external files that the ONNX file names, as normalised relative paths."""
    with path.open("rb") as stream:
        locations = external_locations(stream)
    for location in sorted(locations):
        name = checked_location(location).as_posix()
        if name == _ONNX_FILE:
            raise ModelInvalid(f"external data location {location!r} is the ONNX file's own name")
        yield name


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below `folder`; raises ModelInvalid at a folder that is a link."""
    pending = [folder]
    found = 0
    while pending:
        for member in sorted(pending.pop().iterdir()):
            found += 1
            if found > MAX_VERSION_FILES:
                raise ModelInvalid(
                    f"{str(folder)!r} holds more than {MAX_VERSION_FILES} files; keep only the "
                    "model's own there"
                )
            if not member.is_dir():
                yield member
            elif member.is_symlink():
                raise ModelInvalid(f"{str(member)!r} is a link to a folder; copy it inside")
            else:
                pending.append(member)


def _os_reason(error: OSError) -> str:
    where = str(error.filename or "a file of the model")
    return f"{where!r} cannot be read: {error.strerror or error}"
