"""Samples as a stream takes them: in raw bytes of the model's datatype, a slice at a time, so that neither side waits for the other. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from capamesh.client.arrays import InputValue
from capamesh.protocol.errors import InvalidRequest

if TYPE_CHECKING:
    from capamesh.client.answers import ModelMetadata
    from capamesh.protocol.tensors import TensorSpec

SLICE_BYTES: Final = 16 * 1024
"""The bytes that are sent before the answers that are due are read: what a router reads ahead, so that it takes them without being
read from."""


class SampleSlices:
    """The samples of one stream, and how many windows they have come to."""

    def __init__(self, metadata: ModelMetadata) -> None:
        """Take how the model's input is cut; raise `InvalidRequest` where it is not."""
        window = metadata.window
        if window is None:
            raise InvalidRequest(
                f"model {metadata.name!r} takes no samples: its manifest declares no window; use stream instead"
            )
        self._spec = _input_of(metadata, window.input)
        self._window_bytes = window.samples * self._spec.datatype.numpy_dtype.itemsize
        self._sent_bytes = 0

    @property
    def windows(self) -> int:
        """Return how many whole windows were sent, each of which is answered."""
        return self._sent_bytes // self._window_bytes

    @property
    def has_rest(self) -> bool:
        """Return whether samples were sent that are no whole window."""
        return self._sent_bytes % self._window_bytes > 0

    def of(self, samples: InputValue) -> Iterator[memoryview]:
        """Yield samples as raw bytes, a slice at a time; those that are bytes already are taken as they are.

        Raises:
            InvalidRequest: their dtype is another than the model's.
        """
        if isinstance(samples, bytes | bytearray | memoryview):
            raw = memoryview(samples).cast("B")
        else:
            raw = self._raw(np.asarray(samples))
        for at in range(0, len(raw), SLICE_BYTES):
            part = raw[at : at + SLICE_BYTES]
            self._sent_bytes += len(part)
            yield part

    def _raw(self, array: npt.NDArray[Any]) -> memoryview:
        dtype = self._spec.datatype.numpy_dtype
        is_close = array.dtype.kind == dtype.kind or array.size == 0
        if not is_close or not np.can_cast(array.dtype, dtype, "same_kind"):
            raise InvalidRequest(
                f"samples are {array.dtype}, the model takes {dtype}: convert them first, and scale whole numbers to what the"
                " model expects (16-bit sound: divide by 32768)"
            )
        return np.ascontiguousarray(array.reshape(-1), dtype).view(np.uint8).data


def _input_of(metadata: ModelMetadata, name: str) -> TensorSpec:
    for spec in metadata.inputs:
        if spec.name == name and spec.datatype.itemsize_bytes:
            return spec
    raise InvalidRequest(f"model {metadata.name!r} has no input {name!r} of samples")
