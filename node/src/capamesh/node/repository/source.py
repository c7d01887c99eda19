"""One version of one model as it lies on disk, as a value. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from capamesh.node.repository.declared import DeclaredIo
from capamesh.node.repository.manifest import Manifest
from capamesh.protocol.ids import ModelName, ModelVersion


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file of a model and what tells that it has changed without reading it."""

    name: str
    """Relative to the ONNX file's folder, with `/`; the ONNX file itself is always `model.onnx`."""
    path: Path
    size_bytes: int
    modified_ns: int
    changed_ns: int = 0
    """When its inode was last changed: a file put in another's place may bring that one's time and size."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a backend needs to load a model version; equal sources are the same model, equally served."""

    name: ModelName
    version: ModelVersion
    path: Path
    """The ONNX file; of a pipeline, the model's folder."""
    digest: str
    """`sha256:` and 64 hexadecimal digits over every file of the version; layouts do not change it. Of a
    pipeline, over the file that says its steps."""
    size_bytes: int
    """Of every file that the digest is of."""
    manifest: Manifest
    files: tuple[FileStamp, ...] = field(default=(), repr=False, compare=False)
    """What the digest was taken from, sorted by name."""
    declared: DeclaredIo = field(default_factory=DeclaredIo)
    """Tensors as `config.pbtxt` declares them, to be compared with the model's own."""
    warm_up_files: tuple[FileStamp, ...] = field(default=(), repr=False, compare=False)
    """The files that the manifest's warm-ups name, by that name."""
    state_files: tuple[FileStamp, ...] = field(default=(), repr=False, compare=False)
    """The files that states begin with, as `initial_state/NAME`; `files` has them too."""
    folder: Path | None = field(default=None, repr=False, compare=False)
    """The folder of the model's versions; None: a bare file has none."""
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """What of `config.pbtxt` is ignored and why; a line each."""

    signed: bytes = field(default=b"", repr=False, compare=False)
    """A publisher's good signature of it, as it travels in an advert; b"": it has none."""
    also_signed: tuple[bytes, ...] = field(default=(), repr=False, compare=False)
    """Other publishers' good signatures, in the file's order."""

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a chain of other models, which no backend loads."""
        return bool(self.manifest.rules.steps)
