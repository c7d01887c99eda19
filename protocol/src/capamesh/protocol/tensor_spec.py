"""The declaration of one of a model's tensors. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capamesh.protocol.datatypes import Datatype

ANY_DIM = -1
"""A dimension of any size in a declared shape (the protocol's own mark)."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A declared input or output: its name, datatype and shape, where -1 stands for any size."""

    name: str
    """The name of the input or output."""
    datatype: Datatype
    """The type of its elements."""
    shape: tuple[int, ...]
    """The length of each dimension, -1 for any."""

    def accepts(self, datatype: Datatype, shape: Sequence[int]) -> str | None:
        """Return None when a tensor of `datatype` and `shape` fits, else why it does not."""
        if datatype is not self.datatype:
            return f"tensor {self.name!r} is {datatype}, the model takes {self.datatype}"
        if not _fits(self.shape, shape):
            is_one_row = self.shape[:1] in {(ANY_DIM,), (1,)} and _fits(self.shape[1:], shape)
            hint = f"; one row alone has shape {[1, *shape]}" if is_one_row else ""
            return (
                f"tensor {self.name!r} has shape {list(shape)}, the model takes {list(self.shape)} "
                f"(-1 is any size){hint}"
            )
        return None


def _fits(declared: Sequence[int], shape: Sequence[int]) -> bool:
    """Return whether a tensor of `shape` has a declared shape."""
    return len(shape) == len(declared) and all(
        own in {ANY_DIM, given} for own, given in zip(declared, shape, strict=True)
    )
