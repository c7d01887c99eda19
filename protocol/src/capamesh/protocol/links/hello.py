"""The first frame in each direction: who is there and what they accept. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import NetworkId
from capamesh.protocol.links.frames import WIRE_VERSION
from capamesh.protocol.msgpack_codec import pack, shown, unpack
from capamesh.protocol.plain_text import plain

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
    """Which process of the peer it is, at random; empty: untold. Another one has lost what was under way."""
    takes_another: bool = True
    """Whether a later HELLO may show a renewed chain. Releases before that could be done end the link over one."""

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
        network, chain, agent = raw.get("net"), raw.get("chain"), raw.get("agent")
        credit, message = raw.get("credit"), raw.get("message")
        process = raw.get("proc")
        if not isinstance(network, str) or not isinstance(agent, str):
            raise ProtocolViolation("a HELLO without the text fields net and agent")
        if not isinstance(chain, list) or not all(
            isinstance(part, bytes) for part in cast(list[object], chain)
        ):
            raise ProtocolViolation("a HELLO whose chain is not a list of certificates")
        if type(credit) is not int or type(message) is not int or credit < 1 or message < 1:
            raise ProtocolViolation(
                f"a HELLO with credit {shown(credit)} and message limit {shown(message)}"
            )
        return cls(
            network=NetworkId(network),
            chain=tuple(cast(list[bytes], chain)),
            agent_version=plain(agent[:64]),
            initial_credit_bytes=credit,
            message_bytes=message,
            takes_another=raw.get("again") is True,
            process=process[:MAX_PROCESS_BYTES] if isinstance(process, bytes) else b"",
        )


def unpack_map(meta: bytes, what: str) -> dict[str, Any]:
    """Return `meta` as a msgpack map with text keys; raise `ProtocolViolation` naming `what`."""
    try:
        raw = unpack(meta, max_array_items=MAX_ARRAY_ITEMS)
    except ValueError as exc:
        raise ProtocolViolation(f"the metadata of a {what} is no msgpack: {exc}") from exc
    if not isinstance(raw, dict):
        raise ProtocolViolation(f"the metadata of a {what} is a {type(raw).__name__}, not a map")
    return cast(dict[str, Any], raw)
