"""Frames messages: a 4-byte little-endian length, then one msgpack map with a "type" string. Pure."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from capamesh.protocol import msgpack_codec as packed
from capamesh.protocol.errors import ProtocolViolation, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Message: TypeAlias = dict[str, Any]
"""One decoded message; `message["type"]` is always a string."""

MAX_MESSAGE_BYTES: Final = 16 * 2**20
"""The largest message (guess: far above any that is sent, such as an advert, and far below what hurts)."""

MAX_ARRAY_ITEMS: Final = 100_000
"""The longest array (guess: above the members of the largest mesh)."""

PING: Final = "ping"
PONG: Final = "pong"

_LENGTH: Final = struct.Struct("<I")


def encode(message: Mapping[str, Any]) -> bytes:
    """Return the frame of `message`.

    Raises:
        ProtocolViolation: the message has no "type" string or holds what msgpack cannot carry.
        TooLarge: it is over `MAX_MESSAGE_BYTES`.
    """
    if not isinstance(message.get("type"), str):
        raise ProtocolViolation(
            f'a channel message needs a "type" string; its keys are {list(message)}'
        )
    try:
        body = packed.pack(message)
    except ValueError as exc:
        raise ProtocolViolation(f"message {message['type']!r} cannot be packed: {exc}") from exc
    if len(body) > MAX_MESSAGE_BYTES:
        raise TooLarge(
            f"message {message['type']!r} is {len(body)} bytes, the limit is {MAX_MESSAGE_BYTES}; split it"
        )
    return _LENGTH.pack(len(body)) + body


def unpack(body: bytes) -> object:
    """Return the msgpack value in `body`, which comes from a process of our own."""
    return packed.unpack(body, max_array_items=MAX_ARRAY_ITEMS)


class Decoder:
    """Turns the bytes of a stream into messages, however the stream cuts them.

    `max_message_bytes` and `unpack` are for streams that come from strangers: a lower limit and a stricter
    decoder, which raises `ValueError` for what it refuses.
    """

    def __init__(
        self,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        unpack: Callable[[bytes], object] = unpack,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._unpack = unpack
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Return the messages that `data` completes, in order.

        Raises:
            ProtocolViolation: a length over the limit (seen before anything is allocated for it), bytes
                that are not msgpack, or a message that is no map with a "type" string. The stream has no
                boundary to recover at: close it.
        """
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > self._max_message_bytes:
                raise ProtocolViolation(
                    f"a message of {length} bytes was announced, the limit is {self._max_message_bytes}"
                )
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._decode(bytes(self._buffer[start + _LENGTH.size : end])))
            start = end
        del self._buffer[:start]
        return messages

    def _decode(self, body: bytes) -> Message:
        try:
            value = self._unpack(body)
        except ValueError as exc:
            raise ProtocolViolation(
                f"a message of {len(body)} bytes is not msgpack: {exc}"
            ) from exc
        if not isinstance(value, dict):
            raise ProtocolViolation(f"a message must be a map, not {type(value).__name__}")
        message = cast("Message", value)
        if not isinstance(message.get("type"), str):
            raise ProtocolViolation('a message needs a "type" string')
        return message
