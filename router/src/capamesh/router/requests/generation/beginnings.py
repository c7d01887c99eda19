"""The beginnings of a prompt, by which the node is found that has run most of it before. Pure.

A prompt is cut into blocks of so many bytes, and each block is named by a hash of all that stands before its end. So two prompts that
begin alike have the same first names, and a chat's next turn those of the turn before. Names are a tenant's own, as nodes keep what tenants
have sent apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, cast

from capamesh.router.requests.generation.fields import json_bytes

BLOCK_BYTES: Final = 128
"""The bytes of a block: two of a node's blocks of 16 tokens, in English."""
MOST_BLOCKS: Final = 256
"""The most blocks of a prompt: 32 KiB, from where on two prompts count as alike."""
_KEY_BYTES: Final = 8


def beginnings_of(prompt: Mapping[str, Any], tenant: str) -> tuple[int, ...]:
    """Return the names of a prompt's beginnings, the shortest first, and of all of it, unless it is too long for that.

    `prompt` has the fields of what a node is asked. Raises `InvalidParameter`: JSON cannot hold it.
    """
    data = bytearray()
    for piece in _pieces(prompt):
        data += piece
        if len(data) >= BLOCK_BYTES * MOST_BLOCKS:
            del data[BLOCK_BYTES * MOST_BLOCKS :]
            break
    key = blake2b(tenant.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
    names: list[int] = []
    for at in range(0, len(data), BLOCK_BYTES):
        key = blake2b(key + data[at : at + BLOCK_BYTES], digest_size=_KEY_BYTES).digest()
        names.append(int.from_bytes(key, "big"))
    return tuple(names)


def _pieces(prompt: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield what a node makes the prompt of, in the order in which templates have it: tools before messages."""
    given = prompt.get("prompt")
    if isinstance(given, str):
        yield given.encode("utf-8", "surrogatepass")
    elif given is not None:
        yield array("q", cast("list[int]", given)).tobytes()
    else:
        if "tools" in prompt:
            yield json_bytes(prompt["tools"], "tools")
        for message in prompt["messages"]:
            yield json_bytes(message, "messages")
