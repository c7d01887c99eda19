"""One version of one model as it lies on disk, as a value. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from capamesh.node.store.manifest import Manifest
from capamesh.protocol.ids import ModelName, ModelVersion


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file of a model and what tells that it has changed without reading it."""

    name: str
    """Relative to the version's folder, with `/`; the ONNX file is always `model.onnx`."""
    path: Path
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a backend needs to load a model version; equal sources are the same model."""

    name: ModelName
    version: ModelVersion
    path: Path
    """The ONNX file."""
    digest: str
    """`sha256:` and 64 hexadecimal digits over every file of the version; layouts do not change it."""
    size_bytes: int
    """Of every file of the version."""
    manifest: Manifest
    files: tuple[FileStamp, ...] = field(default=(), repr=False, compare=False)
    """What the digest was taken from, sorted by name."""
