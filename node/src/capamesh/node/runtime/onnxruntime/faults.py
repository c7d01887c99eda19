"""Tells from an error of ONNX Runtime that memory ran out, or that this process has lost its GPU for good. Pure.

After some errors of CUDA every further call of the same process fails, whichever model it is for: only a new process
gets the device back.
"""

from __future__ import annotations

import re
from typing import Final

LOST: Final = frozenset({214, 220, 700, 702, 710, 714, 715, 716, 717, 718, 719})
"""The errors of `cudaError_t` after which the device is lost: an illegal address, a launch that timed out, an assertion in a
kernel, faults of a kernel's stack, instruction, alignment, address space and program counter, a failed launch. Of these the
CUDA Runtime API's reference says that the process has to be ended and launched again. Of errors that ECC cannot correct in
memory (214) and on an NVLink (220) it does not: guess."""
_FAILURE: Final = re.compile(r"\bCUDA failure ([0-9]{1,4}): [^;]* ; GPU=")
"""The form in which ONNX Runtime's `CudaCall` (cuda_call.cc) reports an error."""

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


def device_loss(error: Exception) -> str:
    """Return what the loss of the device is called, "" where the device is not lost."""
    for failure in _FAILURE.finditer(str(error)):
        if int(failure[1]) in LOST:
            return failure[0].partition(" ; ")[0]
    return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that memory could not be had."""
    if isinstance(error, MemoryError):
        return True
    text = str(error)
    return any(sign in text for sign in _SIGNS)
