"""The ONNX Runtime backend on a CUDA device: the same answers as on the CPU, and really from CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from cuda_device import CUDA, why_no_cuda
from onnx import helper

from capamesh.node.devices.host import read_devices
from capamesh.node.devices.nvml import GpuReader
from capamesh.node.repository import scan
from capamesh.node.runtime.onnxruntime.backend import OnnxBackend
from capamesh.protocol.tensors import Datatype, Tensor

P = onnx.TensorProto


pytestmark = pytest.mark.skipif(bool(why_no_cuda()), reason=why_no_cuda() or "a GPU is there")

value = helper.make_tensor_value_info


def write_model(
    root: Path,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> None:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    (root / "m.onnx").write_bytes(model.SerializeToString())


def test_small_network_runs_on_cuda_and_agrees_with_the_cpu(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    weights = rng.standard_normal((64, 32), dtype=np.float32)
    write_model(
        tmp_path,
        [value("x", P.FLOAT, ["N", 64])],
        [value("y", P.FLOAT, ["N", 32])],
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Relu", ["h"], ["y"]),
        ],
        [helper.make_tensor("w", P.FLOAT, [64, 32], weights.tobytes(), raw=True)],
    )
    (source,) = scan(tmp_path).models
    gpu = OnnxBackend("cuda").load(source)
    cpu = OnnxBackend("cpu").load(source)
    assert gpu.provider == CUDA
    for rows in (1, 3, 64, 0):
        x = Tensor.from_numpy("x", rng.standard_normal((rows, 64), dtype=np.float32))
        (from_gpu,), (from_cpu,) = gpu.run([x]), cpu.run([x])
        assert from_gpu.shape == (rows, 32)
        # TF32 multiplies with 10 bits of mantissa.
        np.testing.assert_allclose(from_gpu.to_numpy(), from_cpu.to_numpy(), rtol=1e-2, atol=5e-2)


def test_bfloat16_comes_back_from_cuda_to_this_process(tmp_path: Path) -> None:
    write_model(
        tmp_path,
        [value("x", P.BFLOAT16, ["N"])],
        [value("y", P.BFLOAT16, ["N"])],
        [helper.make_node("Add", ["x", "x"], ["y"])],
    )
    (source,) = scan(tmp_path).models
    model = OnnxBackend("cuda").load(source)
    x = Tensor.from_numpy("x", np.array([1.0, -2.5], np.float32), Datatype.BF16)
    (y,) = model.run([x])
    expected = Tensor.from_numpy("y", np.array([2.0, -5.0], np.float32), Datatype.BF16)
    assert bytes(y.data) == bytes(expected.data)


def test_devices_of_this_machine_have_names_and_memory() -> None:
    devices = read_devices(GpuReader())
    assert {device.kind for device in devices} == {"cuda"}
    for device in devices:
        assert device.uuid.startswith("GPU-")
        assert device.memory_total_bytes >= device.memory_free_bytes > 0
