"""The messages of a stream: how a request and its answer are written in them. Pure.

A text is the JSON of the Open Inference Protocol. A binary message begins with the bytes of its JSON as a number of four
bytes, the least first; then that JSON; then the raw tensors, as behind HTTP's `Inference-Header-Content-Length`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.oip import HEADER_LENGTH_NAME
from capamesh.router.http.replies import size_of
from capamesh.router.ws.frames import message

if TYPE_CHECKING:
    from capamesh.router.http.replies import Reply

LENGTH_BYTES: Final = 4
MAX_WORD_BYTES: Final = 64
"""A longer text is no `{"end": true}`, however it is spaced (guess)."""


def split(body: memoryview) -> tuple[memoryview, int]:
    """Return what follows the number in a binary message, and the bytes of JSON that it begins with. Raises `InvalidRequest`."""
    json_bytes = int.from_bytes(body[:LENGTH_BYTES], "little")
    rest = body[LENGTH_BYTES:]
    if len(body) < LENGTH_BYTES or json_bytes > len(rest):
        raise InvalidRequest(
            f"a binary message of {len(body)} bytes begins with the bytes of its JSON as 4 bytes, the least first: they say"
            f" {json_bytes}, and {len(rest)} follow"
        )
    return rest, json_bytes


def is_end(text: bytes | memoryview) -> bool:
    """Return whether a text says that nothing follows: `{"end": true}`."""
    if len(text) > MAX_WORD_BYTES:
        return False
    try:
        said: object = json.loads(bytes(text))
    except ValueError:
        return False
    return said == {"end": True}


def answer_message(reply: Reply) -> list[bytes | memoryview]:
    """Return the message with an answer: a text unless it has raw tensors."""
    size_bytes = sum(map(size_of, reply.buffers))
    json_bytes = reply.headers.get(HEADER_LENGTH_NAME)
    if json_bytes is None:
        return message(reply.buffers, size_bytes, is_text=True)
    length = int(json_bytes).to_bytes(LENGTH_BYTES, "little")
    return message((length, *reply.buffers), LENGTH_BYTES + size_bytes, is_text=False)


def error_message(
    reply: Reply, answered: int, asked_id: str = "", parts: int = 0
) -> list[bytes | memoryview]:
    """Return the message that tells of an error, of how many requests of the stream were answered, and of which it is of.

    `parts` is how many parts of its answer were sent.
    """
    said: dict[str, Any] = json.loads(b"".join(reply.buffers))
    said["answered"] = answered
    if asked_id:
        said["id"] = asked_id
    if parts:
        said["parts"] = parts
    retry_s = reply.headers.get("Retry-After")
    if retry_s is not None:
        said["retry_after_s"] = int(retry_s)
    text = json.dumps(said, separators=(",", ":")).encode()
    return message((text,), len(text), is_text=True)
