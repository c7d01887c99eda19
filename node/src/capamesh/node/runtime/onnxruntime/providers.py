"""The options of each ONNX Runtime provider for its device, its memory and its files. Pure.

Option names are those of onnxruntime.ai/docs/execution-providers, version 1.31.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"

CUDA_PROVIDERS: Final = frozenset({CUDA, TENSORRT})
"""The providers whose tensors are in the memory of a CUDA device."""


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """The device that models run on, and what they may take there."""

    device_index: int = 0
    """The index as the process sees it: CUDA_VISIBLE_DEVICES renumbers."""
    memory_limit_bytes: int = 0
    """The most bytes of each model's memory pool on a GPU; 0 for none. That all models together keep to it is seen to when one is
    loaded, not while they run: which of them will need how much nobody knows."""
    cache_folder: Path | None = None
    """The folder where compiled engines are kept; None: they are compiled anew at each load."""


def provider_options(provider: str, limits: DeviceLimits, digest: str) -> dict[str, str]:
    """Return the options for one model, whose digest is `sha256-chunks:…`; none for a provider unknown here."""
    match provider:
        case "CUDAExecutionProvider":
            options = {
                "device_id": str(limits.device_index),
                # Doubling, the default, would claim memory that other models need.
                "arena_extend_strategy": "kSameAsRequested",
                # EXHAUSTIVE, the default, measures anew for every batch size.
                "cudnn_conv_algo_search": "HEURISTIC",
            }
            if limits.memory_limit_bytes:
                options["gpu_mem_limit"] = str(limits.memory_limit_bytes)
            return options
        case "TensorrtExecutionProvider":
            options = {"device_id": str(limits.device_index)}
            if limits.memory_limit_bytes:
                options["trt_max_workspace_size"] = str(limits.memory_limit_bytes)
            if limits.cache_folder is not None:
                options |= {
                    "trt_engine_cache_enable": "1",
                    "trt_engine_cache_path": str(engine_folder(limits.cache_folder, digest)),
                    "trt_timing_cache_enable": "1",
                    # Timings are of layers and not of weights: all models share them.
                    "trt_timing_cache_path": str(limits.cache_folder),
                }
            return options
        case _:
            return {}


def engine_folder(cache_folder: Path, digest: str) -> Path:
    """Return the folder for the engines of one model.

    Each digest has its own: an engine holds the weights, and TensorRT's file names tell graphs apart
    but not weights.
    """
    return cache_folder / digest.replace(":", "-")


def shrinking(provider: str, device_index: int) -> str:
    """Return the value of the run option that gives back what the memory pools do not use."""
    return f"cpu:0;gpu:{device_index}" if provider in CUDA_PROVIDERS else "cpu:0"
