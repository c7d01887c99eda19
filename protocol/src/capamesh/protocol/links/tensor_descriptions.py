"""The descriptions of tensors in a message's metadata, of which the body has the bytes one after the other. Pure.

A description is a list: the tensor's name, its datatype, its shape and how many bytes it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.msgpack_codec import shown
from capamesh.protocol.tensors import BYTES, Datatype, Limits, Tensor, check_texts, checked
from capamesh.protocol.values import Value

MAX_KNOWN = 1024
"""Layouts that are remembered (guess: the answers of a fleet's models, their usual batch sizes)."""
MAX_KNOWN_BYTES = 1024
"""Longer descriptions are read anew each time (guess: ten tensors)."""


def described(
    tensors: Sequence[Tensor],
) -> tuple[list[tuple[str, str, tuple[int, ...], int]], list[Buffer]]:
    """Return what is said of tensors, and their bytes."""
    descriptions: list[tuple[str, str, tuple[int, ...], int]] = []
    body: list[Buffer] = []
    for tensor in tensors:
        data = tensor.data
        size_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
        descriptions.append((tensor.name, tensor.datatype, tensor.shape, size_bytes))
        body.append(data)
    return descriptions, body


class Layout(Value):
    """The tensors of a message without their data, and where in its body the data of each is."""

    __slots__ = ("body_bytes", "is_data_checked", "parts")

    def __init__(
        self,
        parts: tuple[tuple[str, Datatype, tuple[int, ...], int, int], ...],
        body_bytes: int,
        is_data_checked: bool,
    ) -> None:
        self.parts = parts
        """Name, datatype, shape, and the bytes of the body from the first number up to the second."""
        self.body_bytes = body_bytes
        self.is_data_checked = is_data_checked
        """True if some tensor's bytes may be wrong though their number is right: those of BYTES and BOOL."""

    def cut(self, body: memoryview, limits: Limits) -> tuple[Tensor, ...]:
        """Return the tensors as slices of a body of `body_bytes`. Raises what `checked` raises."""
        tensors: list[Tensor] = []
        for name, datatype, shape, at, end in self.parts:
            tensors.append(Tensor(name, datatype, shape, body[at:end]))
        if self.is_data_checked:
            for tensor in tensors:
                checked(tensor, limits)
        return tuple(tensors)


def layout_of(tensors: Sequence[Tensor]) -> Layout:
    """Return the layout of a message with these tensors."""
    parts: list[tuple[str, Datatype, tuple[int, ...], int, int]] = []
    at = 0
    for tensor in tensors:
        end = at + tensor.size_bytes
        parts.append((tensor.name, tensor.datatype, tensor.shape, at, end))
        at = end
    is_data_checked = any(each.datatype in {Datatype.BOOL, Datatype.BYTES} for each in tensors)
    return Layout(tuple(parts), at, is_data_checked)


class KnownLayouts(dict[bytes, Layout]):
    """The layouts that one process was sent and has found right, by their descriptions as they came.

    They are keyed by all that says what they are, so that the next that is the same is as well checked.
    """

    __slots__ = ()

    def learn(self, described: bytes, tensors: Sequence[Tensor]) -> None:
        """Remember the layout of tensors that were checked, unless their descriptions are long."""
        if len(described) > MAX_KNOWN_BYTES:
            return
        if len(self) >= MAX_KNOWN:
            del self[next(iter(self))]
        self[described] = layout_of(tensors)


def read_tensors(raw: object, body: memoryview, limits: Limits) -> tuple[Tensor, ...]:
    """Return the tensors that `raw` describes, of any shape and datatype, as slices of `body`: their bytes, row-major.

    Raises:
        InvalidRequest: what describes no tensor, or not all of the body.
        TooLarge: tensors over `limits`.
    """
    if not isinstance(raw, list):
        raise InvalidRequest("a message without a list of tensors")
    described = cast(list[object], raw)
    if len(described) > limits.max_tensors:
        raise InvalidRequest(f"{len(described)} tensors; at most {limits.max_tensors}")
    tensors: list[Tensor] = []
    at, end = 0, len(body)
    texts = 0
    for entry in described:
        name, kind, shape, size = _entry(entry)
        if kind is BYTES:
            texts += math.prod(shape)
            check_texts(name, texts, limits)
        if size < 0 or at + size > end:
            raise InvalidRequest(
                f"tensor {name!r} is said to have {size} bytes; {end - at} of the body are left"
            )
        tensors.append(checked(Tensor(name, kind, shape, body[at : at + size]), limits))
        at += size
    if at != end:
        raise InvalidRequest(f"the tensors take {at} bytes, the body has {end}")
    return tuple(tensors)


def _entry(entry: object) -> tuple[str, Datatype, tuple[int, ...], int]:
    parts = listed(entry)
    if len(parts) >= 4:
        name, datatype, shape, size = parts[:4]
        if (
            type(name) is str
            and type(datatype) is str
            and type(shape) is list
            and type(size) is int
            and {int}.issuperset(map(type, cast(list[object], shape)))
        ):
            kind = Datatype.of_name(datatype)
            if kind is None:
                raise InvalidRequest(
                    f"tensor {name!r} has unknown datatype {shown(datatype)}; known: {', '.join(Datatype)}"
                )
            return name, kind, tuple(cast(list[int], shape)), size
    raise InvalidRequest(
        f"a tensor described as {shown(entry)}: name, datatype, shape, size are expected"
    )


def check_outputs(outputs: Sequence[Tensor], limits: Limits) -> None:
    """Refuse what the receiver of an answer would: too many texts, or empty tensors of a huge shape. TooLarge."""
    texts = 0
    for tensor in outputs:
        if tensor.datatype is BYTES:
            texts += math.prod(tensor.shape)
            check_texts(tensor.name, texts, limits)
        if not tensor.size_bytes:
            try:
                checked(tensor, limits)
            except InvalidRequest as error:
                raise TooLarge(f"the answer's {error.message}") from error


def listed(raw: object) -> list[object]:
    """Return an unpacked list; nothing of what is none."""
    return cast(list[object], raw) if isinstance(raw, list) else []
