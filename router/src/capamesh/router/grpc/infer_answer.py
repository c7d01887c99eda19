"""Writes a `ModelInferResponse`: what describes its tensors is remembered, and their bytes follow it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.protocol.oip.encoding import chosen
from capamesh.protocol.oip.messages import InferResponse
from capamesh.router.http.replies import size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.links.calls import InferAnswer
    from capamesh.protocol.oip.messages import InferRequest, RequestedOutput

    _Key = tuple[bytes, str, str, tuple[RequestedOutput, ...]]

MAX_KNOWN: Final = 1024
"""Descriptions that are remembered (guess: some models on some nodes, their usual batch sizes); the oldest makes room."""
JOINED_BYTES: Final = 64 * 1024
"""A message up to that is copied into one piece before it is sent (guess: as answers over HTTP)."""
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
NOT_FINAL: Final = field(4, field(1, b"triton_final_response") + field(2, b"\x08\x00"))
"""The same on every other: false, and said."""


class KnownAnswers:
    """The descriptions in the answers of one server."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[_Key, tuple[bytes, tuple[int, ...]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def written(
        self,
        asked: InferRequest,
        answer: InferAnswer,
        model: str,
        *,
        is_final: bool | None = None,
    ) -> list[bytes | memoryview]:
        """Return the message with an answer to what was asked of `model`, in pieces; tensors are not copied.

        `is_final` tells the client of a stream whether it is the last to its request; None: there is no stream.

        Raises:
            InvalidRequest: a requested output that the model does not have.
            ModelUnavailable: an output that the node has not classified.
        """
        is_plain = bool(answer.described) and not asked.classes
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
        if asked.id:
            pieces.append(field(3, asked.id.encode()))
        if is_final is not None:
            pieces.append(FINAL if is_final else NOT_FINAL)
        outputs = answer.outputs
        for place in order:
            data = outputs[place].data
            if isinstance(data, bytearray):
                data = memoryview(data)
            pieces += (b"\x32" + varint(len(data)), data)
        return pieces


def framed(
    pieces: Sequence[bytes | memoryview], *, is_packed: bool = False
) -> list[bytes | memoryview]:
    """Return a message behind gRPC's five bytes, in one piece unless it is long."""
    size_bytes = 0
    for piece in pieces:
        size_bytes += piece.nbytes if isinstance(piece, memoryview) else len(piece)
    prefix = (b"\1" if is_packed else b"\0") + size_bytes.to_bytes(4, "big")
    if size_bytes <= JOINED_BYTES:
        return [b"".join((prefix, *pieces))]
    return [prefix, *pieces]


def in_stream(pieces: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return a message of a stream, a `ModelStreamInferResponse` with an answer in pieces."""
    return [b"\x12" + varint(sum(map(size_of, pieces))), *pieces]


def error_in_stream(text: str, request_id: str) -> list[bytes]:
    """Return a message of a stream that tells of an error, and of which request it is if that has an id."""
    whose = field(2, field(3, request_id.encode())) if request_id else b""
    return [field(1, text.encode()), whose]


def empty_final(asked: InferRequest, answer: InferAnswer, model: str) -> list[bytes | memoryview]:
    """Return a message without outputs which tells the client of a stream that all answers to its request have come."""
    said = field(1, model.encode()) + field(2, answer.version.encode())
    return [said, field(3, asked.id.encode()), FINAL]


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
    for tensor in tensors:
        described = field(1, tensor.name.encode()) + field(2, tensor.datatype.encode())
        if tensor.shape:
            described += field(3, b"".join(map(varint, tensor.shape)))
        parts.append(field(5, described))
    return b"".join(parts), tuple(places[id(tensor)] for tensor in tensors)
