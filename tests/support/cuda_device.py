"""Whether tests can run on a CUDA device here. IO: the driver."""

from __future__ import annotations

import onnxruntime

from capamesh.node.devices.nvml import GpuReader

CUDA = "CUDAExecutionProvider"


def why_no_cuda() -> str:
    """Return why nothing runs on CUDA here, for a person; empty where it does."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this ONNX Runtime is built without CUDA"
    if not GpuReader().read():
        return "no NVIDIA driver with a GPU"
    return ""
