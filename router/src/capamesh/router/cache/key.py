"""The key of a kept answer: a digest of all that the answer follows from, and of whose it is. Pure.

Two requests have one key where a node gets the same of both, whichever wire brought them: tensors count by name, datatype, shape
and bytes, in any order. Neither priority nor deadline is part of it, for no answer follows from them.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol, Self

from mypy_extensions import mypyc_attr

from capamesh.router.rules.constraints import ANYWHERE

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import InferCall
    from capamesh.protocol.tensors import Tensor
    from capamesh.router.rules.constraints import Constraints

MOST_INPUT_BYTES: Final = 4 * 2**20
"""The largest inputs of which a key is made: the event loop waits for it (measured: 0.6 ms a MiB)."""
SAMPLE_BYTES: Final = 32
"""The bytes of an input's beginning, middle and end that its mark looks at (guess: a few words, or numbers, of each)."""
MAX_BEGUN: Final = 1024
"""Forms that are remembered (guess: some models and tenants, their usual batch sizes); then all are forgotten."""


@mypyc_attr(native_class=False)
class Begun(Protocol):
    """The beginning of a digest."""

    def copy(self) -> Self:
        """Return another that begins as this one."""
        ...

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Go on with more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


class Keys:
    """Makes keys, and remembers how those of requests of one form begin."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun: dict[tuple[object, ...], Begun] = {}

    def of(
        self,
        request: InferCall,
        digest: str,
        version: str,
        tenant: str | None,
        constraints: Constraints,
    ) -> bytes:
        """Return the key, 32 bytes that nobody can find twice: SHA-256, because processors have instructions for it.

        `digest` is that of the model's file, `version` the one that is asked, `tenant` None where tenants share answers. Requests with
        different `constraints` may be answered by different nodes, so that neither gets what was found for the other.
        """
        inputs = request.inputs
        told = None if constraints is ANYWHERE else _told(constraints)
        asked = (digest, request.model, version, tenant, request.outputs, request.classes, told)
        form: tuple[object, ...]
        if len(inputs) == 1:  # as of most models
            tensor = inputs[0]
            form = (asked, tensor.name, tensor.datatype, tensor.shape, len(tensor.data))
        else:
            inputs = tuple(sorted(inputs, key=_name_of))
            form = (asked,)
            for tensor in inputs:
                form += (tensor.name, tensor.datatype, tensor.shape, len(tensor.data))
        begun = self._begun.get(form)
        if begun is None:
            # the text of a tuple of texts, numbers and tuples of them is never that of another
            begun = sha256(repr(form).encode("utf-8", "surrogatepass"))
            if len(self._begun) >= MAX_BEGUN:
                self._begun.clear()
            self._begun[form] = begun
        key = begun.copy()
        for tensor in inputs:
            key.update(tensor.data)
        return key.digest()


def input_bytes(request: InferCall) -> int:
    """Return the bytes of all inputs of a request."""
    size_bytes = 0
    for tensor in request.inputs:
        size_bytes += len(tensor.data)
    return size_bytes


def mark_of(request: InferCall) -> int:
    """Return a number that is the same for equal requests, and for most that are not another; 64 bits.

    It looks at some bytes alone, so that for inputs which nobody repeats no key need be made, however long they are.
    """
    mark = hash(request.model)
    for tensor in request.inputs:  # in any order
        mark ^= hash((tensor.name, _sample(tensor.data)))
    return mark


def _sample(data: bytes | bytearray | memoryview) -> bytes:
    size_bytes = len(data)
    if size_bytes <= 3 * SAMPLE_BYTES:
        return bytes(data)
    middle = size_bytes // 2
    parts = (data[:SAMPLE_BYTES], data[middle : middle + SAMPLE_BYTES], data[-SAMPLE_BYTES:])
    return b"".join(parts)


def _name_of(tensor: Tensor) -> str:
    return tensor.name


def _told(constraints: Constraints) -> tuple[object, ...]:
    """Return constraints as values whose texts are equal where the constraints are."""
    price = None if constraints.max_price == math.inf else constraints.max_price
    sets = (constraints.regions, constraints.device_kinds, constraints.peers, constraints.not_at)
    return (price, *[None if each is None else tuple(sorted(each)) for each in sets])
