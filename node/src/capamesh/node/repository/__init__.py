"""The model store: what a folder of ONNX models offers. Reads files; loads nothing.

Layout: `<root>/<model>/<version>/model.onnx` (Triton's) or `<root>/<model>.onnx` (version 1); beside it may
be a `capamesh.toml` or Triton's `config.pbtxt`. A folder whose file has steps is a pipeline.
"""

from __future__ import annotations

from capamesh.node.repository.content import VerifiedContent
from capamesh.node.repository.declared import DeclaredIo
from capamesh.node.repository.file_stamp import ContentChanged, FileStamp
from capamesh.node.repository.folder import Refused, Scan, scan
from capamesh.node.repository.manifest import Manifest
from capamesh.node.repository.origin import FolderOrigin, ModelOrigin
from capamesh.node.repository.source import ModelSource

__all__ = [
    "ContentChanged",
    "DeclaredIo",
    "FileStamp",
    "FolderOrigin",
    "Manifest",
    "ModelOrigin",
    "ModelSource",
    "Refused",
    "Scan",
    "VerifiedContent",
    "scan",
]
