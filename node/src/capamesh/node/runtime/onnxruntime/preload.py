"""Reads in CUDA's libraries and cuDNN from where pip puts them, in which the system's loader does not look. Loads libraries."""

from __future__ import annotations

import contextlib
import io
from functools import cache
from typing import Final

from capamesh.node.runtime.onnxruntime.binding import ort

CUDA_LINE: Final = f"pip install 'onnxruntime-gpu[cuda,cudnn]=={ort.__version__}'"
"""The line that installs what ONNX Runtime's CUDA provider needs beside the driver."""
_FAILED: Final = "Failed to load "


@cache
def read_in_cuda() -> tuple[str, ...]:
    """Read in CUDA's libraries, once in a process; return what is wrong with those that could not be.

    NVIDIA's packages lie in site-packages, and ONNX Runtime's CUDA provider is linked to their bare names: it finds them
    only where they are in this process already.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what goes wrong
        ort.preload_dlls()
    lines = said.getvalue().splitlines()
    return tuple(line.removeprefix(_FAILED) for line in lines if line.startswith(_FAILED))
