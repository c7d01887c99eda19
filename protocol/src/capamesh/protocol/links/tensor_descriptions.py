"""The descriptions of tensors in a message's metadata, of which the body has the bytes one after the other. Pure.

A description is a list: the tensor's name, its datatype, its shape and how many bytes it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest, TooLarge
from capamesh.protocol.links.outgoing import Buffer
from capamesh.protocol.msgpack_codec import shown
from capamesh.protocol.tensors import Datatype, Limits, Tensor, check_texts, checked

MAX_KNOWN = 1024
"""Tensors' descriptions that are remembered (guess: the outputs of a fleet's models, their usual batch sizes)."""
MAX_KNOWN_CHARS = 128
"""The most characters of the name of a tensor whose description is remembered (guess: most are shorter)."""


def described(
    tensors: Sequence[Tensor],
) -> tuple[list[tuple[str, str, tuple[int, ...], int]], list[Buffer]]:
    """Return what is said of tensors, and their bytes."""
    descriptions: list[tuple[str, str, tuple[int, ...], int]] = []
    body: list[Buffer] = []
    for name, datatype, shape, data in tensors:
        size_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
        descriptions.append((name, datatype, shape, size_bytes))
        body.append(data)
    return descriptions, body


class KnownTensors:
    """Descriptions of tensors that one process was sent and has found right: the next that is the same is, too.

    Whether a description is right depends on it alone, but for BYTES and BOOL, which are not remembered.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[str, Datatype, tuple[int, ...], int]] = {}

    @override
    def __repr__(self) -> str:
        return f"KnownTensors({len(self._known)})"

    def __len__(self) -> int:
        return len(self._known)

    def find(self, entry: object) -> tuple[str, Datatype, tuple[int, ...], int] | None:
        """Return name, datatype, shape and size in bytes of a description that is known; None: it is not."""
        try:
            name, datatype, shape, size = cast("tuple[Any, Any, Any, Any]", entry)
            found = self._known.get((name, datatype, tuple(shape), size))
        except (TypeError, ValueError):
            return None  # whatever it is, it was never found right
        # true and 1.0 equal 1, but describe no tensor
        is_same = found is not None and type(size) is int and _are_ints(shape)
        return found if is_same else None

    def add(self, tensor: Tensor) -> None:
        """Remember the description of a tensor that was checked."""
        name, datatype, shape, size = tensor.name, tensor.datatype, tensor.shape, tensor.size_bytes
        if datatype in {Datatype.BYTES, Datatype.BOOL} or len(name) > MAX_KNOWN_CHARS:
            return
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[name, str(datatype), shape, size] = (name, datatype, shape, size)


def read_tensors(
    raw: object, body: memoryview, limits: Limits, known: KnownTensors | None = None
) -> tuple[Tensor, ...]:
    """Return the tensors that `raw` describes, of any shape and datatype, as slices of `body`: their bytes, row-major.

    Descriptions that are `known` are not checked again.

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
        form = known.find(entry) if known is not None else None
        name, kind, shape, size = _entry(entry) if form is None else form
        if kind is Datatype.BYTES:
            texts += math.prod(shape)
            check_texts(name, texts, limits)
        if size < 0 or at + size > end:
            raise InvalidRequest(
                f"tensor {name!r} is said to have {size} bytes; {end - at} of the body are left"
            )
        tensor = Tensor(name, kind, shape, body[at : at + size])
        if form is None:
            checked(tensor, limits)
            if known is not None:
                known.add(tensor)
        tensors.append(tensor)
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
            and _are_ints(cast(list[object], shape))
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


def _are_ints(values: list[object]) -> bool:
    for value in values:  # noqa: SIM110 - `all` would make a generator for every tensor
        if type(value) is not int:
            return False
    return True


def check_outputs(outputs: Sequence[Tensor], limits: Limits) -> None:
    """Refuse what the receiver of an answer would: too many texts, or empty tensors of a huge shape. TooLarge."""
    texts = 0
    for tensor in outputs:
        if tensor.datatype is Datatype.BYTES:
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
