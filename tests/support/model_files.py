"""Model files of a test as a node would have them: verified, with what their ONNX file holds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper

from capamesh.node.repository import FolderOrigin, Manifest, ModelSource, VerifiedContent
from capamesh.node.repository.file_stamp import stamp_of
from capamesh.node.repository.onnx_scan import contents_of
from capamesh.protocol.ids import ModelName, ModelVersion


def content_at(path: Path, *others: Path) -> VerifiedContent:
    """Return the ONNX file at `path` and the `others` beside it, verified."""
    files = [stamp_of("model.onnx", path, path.stat())]
    files += [stamp_of(other.name, other, other.stat()) for other in others]
    onnx = contents_of(io.BytesIO(path.read_bytes()))
    return FolderOrigin(path, tuple(files), onnx).verified()


def source_at(path: Path, manifest: Manifest | None = None) -> ModelSource:
    """Return the model "m" whose ONNX file is at `path`, with nothing beside it."""
    return ModelSource(ModelName("m"), ModelVersion("1"), content_at(path), manifest or Manifest())


def f32(name: str, *shape: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    weights: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def write_onnx(path: Path, model: onnx.ModelProto) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
