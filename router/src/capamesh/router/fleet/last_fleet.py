"""The fleet as a router heard it last, kept so that the router serves at once when it starts again. Pure.

What is kept are the envelopes as their nodes signed them: the file is believed no more than the gossip was. A node that
has gone meanwhile is found out by its link, which cannot be made, and expires as any that is silent.

    file = array of 4: [version, when it was written in milliseconds since the epoch, array of envelopes, lost nodes]

The lost nodes are as `LostNodes.rows` has them; a file of before there were any ends with the envelopes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from typing_extensions import override

from capamesh.protocol.adverts.envelope import MAX_ENVELOPE_BYTES
from capamesh.protocol.msgpack_codec import pack, unpack

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId

VERSION = 1
MAX_NODES = 4096
MAX_BYTES = 16 * 1024 * 1024
"""Nodes beyond this size are not kept (guess: enough to serve by until the rest is heard of)."""
MAX_LOST_BYTES = 12 * 1024 * 1024
"""The most that the lost nodes take: `MOST` of them, each with `MOST_MODELS` of the longest names."""
MAX_AGE_MS = 3_600_000
"""A file that is older, or from the future by as much, is not used (guess: addresses have found other owners by then,
and a router that was away for an hour can wait two seconds more)."""


class LastFleet:
    """The newest advert of each node, as it came, within bounds."""

    __slots__ = ("_bytes", "_envelopes", "is_changed")

    def __init__(self) -> None:
        self._envelopes: dict[PeerId, bytes] = {}
        self._bytes = 0
        self.is_changed = False
        """True if a node has joined, changed or left since `encode`; adverts that repeat what is known need not be written."""

    @override
    def __repr__(self) -> str:
        return f"LastFleet({len(self._envelopes)} nodes, {self._bytes} bytes)"

    def __len__(self) -> int:
        return len(self._envelopes)

    def heard(self, peer: PeerId, envelope: bytes, *, is_news: bool) -> None:
        """Keep what a member said."""
        known = self._envelopes.get(peer)
        size = self._bytes + len(envelope) - (0 if known is None else len(known))
        if size > MAX_BYTES or (known is None and len(self._envelopes) >= MAX_NODES):
            return
        self._envelopes[peer] = envelope
        self._bytes = size
        self.is_changed |= is_news or known is None

    def left(self, peer: PeerId) -> None:
        """Forget a node that is no member any more."""
        known = self._envelopes.pop(peer, None)
        if known is not None:
            self._bytes -= len(known)
            self.is_changed = True

    def envelopes(self) -> list[bytes]:
        """Return what each member said last."""
        return list(self._envelopes.values())

    def encode(self, wall_ms: int, lost: list[object]) -> bytes:
        """Return the file, with the lost nodes."""
        self.is_changed = False
        return pack([VERSION, wall_ms, list(self._envelopes.values()), lost])


def decode(file: bytes, wall_ms: int) -> tuple[list[bytes], list[object]]:
    """Return the envelopes in a file, none of which is verified yet, and the lost nodes.

    Raises `ValueError` for a file that is not to be used.
    """
    if len(file) > MAX_BYTES + 64 * MAX_NODES + MAX_LOST_BYTES:
        raise ValueError(f"{len(file)} bytes are too many")
    kept = unpack(file, max_array_items=MAX_NODES)
    match kept:
        case [int() as version, int() as written_ms, list(), *_] if version == VERSION:
            if abs(wall_ms - written_ms) > MAX_AGE_MS:
                raise ValueError(f"it was written {(wall_ms - written_ms) / 1000:.0f} s ago")
            _, _, found, *rest = cast("list[list[object]]", kept)
            envelopes = [
                each
                for each in found
                if isinstance(each, bytes) and len(each) <= MAX_ENVELOPE_BYTES
            ]
            return envelopes, list(rest[0]) if rest and isinstance(rest[0], list) else []
        case _:
            raise ValueError("it is no fleet of this version")
