"""Tells that a run failed for want of memory, by what ONNX Runtime says. Pure."""

from __future__ import annotations

from typing import Final

_SIGNS: Final = (
    "Failed to allocate memory",  # onnxruntime/core/framework/bfc_arena.cc
    "is smaller than requested bytes",  # likewise, of a pool at its limit
    "bad_alloc",
    "bad allocation",
    "out of memory",  # CUDA error 2
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""The signs of ONNX Runtime 1.31, found by running out of memory; those of CUDA are as its headers name them."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory could not be had."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    return any(sign in text for sign in _SIGNS)
