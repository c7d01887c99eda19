"""One version of one model: its verified content, and how it is to be served, as a value. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from capamesh.node.repository.content import VerifiedContent
from capamesh.node.repository.declared import DeclaredIo
from capamesh.node.repository.file_stamp import FileStamp
from capamesh.node.repository.manifest import Manifest
from capamesh.protocol.ids import ModelName, ModelVersion


@dataclass(frozen=True, slots=True)
class ModelSource:
    """The source of a model version, with all that a backend needs to load it; equal sources are the same model, equally served."""

    name: ModelName
    version: ModelVersion
    content: VerifiedContent
    """The verified files; layouts do not change their digest. Of a pipeline, the file that says its steps."""
    manifest: Manifest
    declared: DeclaredIo = field(default_factory=DeclaredIo)
    """Tensors as `config.pbtxt` declares them, to be compared with the model's own."""
    warm_up_files: tuple[FileStamp, ...] = field(default=(), repr=False, compare=False)
    """The files that the manifest's warm-ups name, by that name."""
    folder: Path | None = field(default=None, repr=False, compare=False)
    """The folder of the model's versions; None: a bare file has none."""
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """The notes on what of `config.pbtxt` is ignored and why; a line each."""

    label_files: tuple[tuple[str, FileStamp], ...] = field(default=(), repr=False)
    """(an output or `labels.EVERY_OUTPUT`, the file with the names of its classes)."""

    signed: bytes = field(default=b"", repr=False, compare=False)
    """A publisher's good signature of it, as it travels in an advert; b"": it has none."""
    also_signed: tuple[bytes, ...] = field(default=(), repr=False, compare=False)
    """Other publishers' good signatures, in the file's order."""

    @property
    def path(self) -> Path:
        """The ONNX file; of a pipeline, the model's folder."""
        return self.content.path

    @property
    def digest(self) -> str:
        """The digest of every file of the version; see `capamesh.protocol.model_digest`."""
        return self.content.digest

    @property
    def size_bytes(self) -> int:
        """The bytes of every file that the digest is of."""
        return self.content.size_bytes

    @property
    def files(self) -> tuple[FileStamp, ...]:
        """The files that the digest is of, sorted by name."""
        return self.content.files

    @property
    def is_pipeline(self) -> bool:
        """Return whether it is a chain of other models, which no backend loads."""
        return bool(self.manifest.rules.steps)
