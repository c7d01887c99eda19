"""Arrays of other libraries, such as torch, JAX and CuPy, taken as they lie in memory, by DLPack. Pure."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeIs

from capamesh.protocol.errors import InvalidRequest

_CPU: Final = 1
"""DLPack's number for memory that the processor reads (`kDLCPU`)."""


class DlpackArray(Protocol):
    """An array that another library can take over, as the array API standard has it."""

    def __dlpack__(self, *, stream: None = None) -> Any:  # noqa: ANN401 - its type has no name before Python 3.13
        """Return the array's memory with its dtype and shape, in a capsule."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the kind of device where the memory is, and which one."""
        ...


def is_dlpack(value: object) -> TypeIs[DlpackArray]:
    """Return whether a value is an array of another library than numpy."""
    return hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray | np.generic)


def from_dlpack(name: str, array: DlpackArray) -> npt.NDArray[Any]:
    """Return an array of another library as one of numpy, which shares its memory where that is the processor's.

    Raises:
        InvalidRequest: the memory cannot be read here, or numpy has no such dtype.
    """
    kind = type(array).__name__
    try:
        device = int(array.__dlpack_device__()[0])
        if device == _CPU:
            return np.from_dlpack(array)
        return np.from_dlpack(array, device="cpu")  # its own library copies it, where it can
    except Exception as exc:  # what a stranger's library raises
        raise InvalidRequest(
            f"input {name!r} is a {kind} that numpy cannot take over: {exc}; give it as a numpy array, such as "
            "value.detach().cpu().numpy() of a torch tensor, whose bfloat16 numpy lacks: .float() first"
        ) from exc
