"""Tells from an error of ONNX Runtime that this process has lost its GPU for good. Pure.

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


def device_loss(error: Exception) -> str:
    """Return what the loss of the device is called, "" where the device is not lost."""
    for failure in _FAILURE.finditer(str(error)):
        if int(failure[1]) in LOST:
            return failure[0].partition(" ; ")[0]
    return ""
