"""The first frame in each direction: who is there and what they accept. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.links.frames import PART_WINDOW_BYTES, WIRE_VERSION
from capamesh.protocol.msgpack_codec import pack, shown, unpack
from capamesh.protocol.plain_text import plain
from capamesh.protocol.schema import Meta, Mismatch, Struct, read

MAX_ARRAY_ITEMS = 16_384
"""The most tensors of a message, see `tensors.Limits`."""
MAX_PROCESS_BYTES = 16
MAX_HELLO_BYTES = 32 * 1024
"""Two certificates of at most 8 KiB each, and room to grow."""


@dataclass(frozen=True, slots=True)
class Hello:
    """An introduction: network, certificate chain (leaf first, DER) and receive limits in bytes."""

    network: NetworkId
    chain: tuple[bytes, ...]
    agent_version: str
    initial_credit_bytes: int
    message_bytes: int
    wire_version: int = WIRE_VERSION
    process: bytes = b""
    """The process of the peer, as random bytes; empty: untold. Another one has lost what was under way."""
    part_window_bytes: int = PART_WINDOW_BYTES
    """The next part of an answer is taken while less than this of the parts before it is not released."""
    takes_another: bool = True
    """True if a later HELLO may show a renewed chain. Releases before that could be done end the link over one."""

    def encode(self) -> bytes:
        """Return the metadata of a HELLO frame."""
        return pack(
            {
                "v": self.wire_version,
                "net": self.network,
                "chain": list(self.chain),
                "agent": self.agent_version,
                "credit": self.initial_credit_bytes,
                "message": self.message_bytes,
                "proc": self.process,
                "parts": self.part_window_bytes,
                "again": self.takes_another,
            }
        )

    @classmethod
    def decode(cls, meta: bytes) -> Hello:
        """Return the introduction in `meta`; raise `ProtocolViolation` when it is none."""
        if len(meta) > MAX_HELLO_BYTES:
            raise ProtocolViolation(f"a HELLO of {len(meta)} bytes; at most {MAX_HELLO_BYTES}")
        raw = unpack_map(meta, "HELLO")
        version = raw.get("v")
        if type(version) is not int or version != WIRE_VERSION:
            raise ProtocolViolation(
                f"the peer speaks link version {shown(version)}, this side {WIRE_VERSION}: upgrade the older"
            )
        try:
            wire = read(raw, _Wire)
        except Mismatch as exc:
            raise ProtocolViolation(f"a HELLO that does not fit: {exc}") from exc
        return cls(
            network=NetworkId(wire.net),
            chain=wire.chain,
            agent_version=plain(wire.agent[:64]),
            initial_credit_bytes=wire.credit,
            message_bytes=wire.message,
            part_window_bytes=wire.parts,
            takes_another=wire.again is True,
            process=wire.proc[:MAX_PROCESS_BYTES] if isinstance(wire.proc, bytes) else b"",
        )


class _Wire(Struct, frozen=True):
    """The map of a HELLO, but for its version; what stands at the last two keys is not refused, whatever it is."""

    net: str
    agent: str
    chain: tuple[bytes, ...]
    credit: Annotated[int, Meta(ge=1)]
    message: Annotated[int, Meta(ge=1)]
    parts: Annotated[int, Meta(ge=1)] = PART_WINDOW_BYTES
    proc: object = b""
    again: object = False


def unpack_map(meta: bytes, what: str) -> dict[str, Any]:
    """Return `meta` as a msgpack map with text keys; raise `ProtocolViolation` naming `what`."""
    try:
        raw = unpack(meta, max_array_items=MAX_ARRAY_ITEMS)
    except ValueError as exc:
        raise ProtocolViolation(f"the metadata of a {what} is no msgpack: {exc}") from exc
    if not isinstance(raw, dict):
        raise ProtocolViolation(f"the metadata of a {what} is a {type(raw).__name__}, not a map")
    return cast(dict[str, Any], raw)
