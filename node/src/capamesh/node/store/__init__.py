"""The model store: what a folder of ONNX models offers. Reads files; loads nothing.

Layout: `<root>/<model>/<version>/model.onnx` (Triton's) or `<root>/<model>.onnx` (version 1).
"""

from __future__ import annotations

from capamesh.node.store.folder import Refused, Scan, scan
from capamesh.node.store.manifest import Manifest
from capamesh.node.store.source import ModelSource

__all__ = ["Manifest", "ModelSource", "Refused", "Scan", "scan"]
