"""Writes a `ModelInferResponse`: what describes its tensors is remembered, and their bytes follow it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.protocol.oip.encoding import chosen
from capamesh.protocol.oip.messages import InferResponse

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.oip.messages import InferRequest, RequestedOutput

    _Key = tuple[bytes, str, str, tuple[RequestedOutput, ...]]

MAX_KNOWN: Final = 1024
"""Descriptions that are remembered (guess: some models on some nodes, their usual batch sizes); the oldest makes room."""
MAX_KNOWN_BYTES: Final = 1024
"""A longer description is written anew each time (guess: some eight outputs)."""


def varint(value: int) -> bytes:
    """Return a number from 0 as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """Return a field with a length, of a number below 16."""
    return bytes((number << 3 | 2,)) + varint(len(data)) + data


FINAL: Final = field(4, field(1, b"triton_final_response") + field(2, b"\x08\x01"))
"""The parameter by which clients of a stream know the last answer to a request: a map's entry with true."""


class KnownAnswers:
    """The descriptions in the answers of one server."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[_Key, tuple[bytes, tuple[int, ...]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def written(
        self, asked: InferRequest, answer: InferAnswer, model: str, *, is_streamed: bool = False
    ) -> list[bytes | memoryview]:
        """Return the message with an answer to what was asked of `model`, in pieces; tensors are not copied.

        `is_streamed` says that it is the last to its request.

        Raises:
            InvalidRequest: a requested output that the model does not have.
            ModelUnavailable: an output that the node has not classified.
        """
        is_plain = bool(answer.described) and not (asked.id or asked.classes)
        key = (answer.described, answer.version, model, asked.outputs)
        known = self._known.get(key) if is_plain else None
        if known is None:
            known = _described(asked, answer, model)
            if is_plain and len(known[0]) <= MAX_KNOWN_BYTES:
                if len(self._known) >= MAX_KNOWN:
                    del self._known[next(iter(self._known))]
                self._known[key] = known
        description, order = known
        pieces: list[bytes | memoryview] = [description]
        if is_streamed:
            pieces.append(FINAL)
        outputs = answer.outputs
        for place in order:
            data = outputs[place].data
            if isinstance(data, bytearray):
                data = memoryview(data)
            pieces += (b"\x32" + varint(len(data)), data)
        return pieces


def _described(
    asked: InferRequest, answer: InferAnswer, model: str
) -> tuple[bytes, tuple[int, ...]]:
    """Return all but the bytes of the tensors, and the places of these among the answer's outputs."""
    response = InferResponse(model, answer.version, asked.id, answer.outputs)
    tensors = [tensor for tensor, _ in chosen(response, asked)]
    places = {id(tensor): place for place, tensor in enumerate(answer.outputs)}
    parts = [field(1, model.encode())]
    if answer.version:
        parts.append(field(2, answer.version.encode()))
    if asked.id:
        parts.append(field(3, asked.id.encode()))
    for tensor in tensors:
        described = field(1, tensor.name.encode()) + field(2, tensor.datatype.encode())
        if tensor.shape:
            described += field(3, b"".join(map(varint, tensor.shape)))
        parts.append(field(5, described))
    return b"".join(parts), tuple(places[id(tensor)] for tensor in tensors)
