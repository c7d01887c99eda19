"""Reads nodes' adverts, and what a node says again just once. Pure.

Most adverts say what the last one said, and to check each of their fields is half of what an advert costs a router's
process (measured: benchmarks/scale.py). A body that is, byte for byte, the last good one of its peer needs no check.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.adverts.body import advert_from_body
from capamesh.protocol.msgpack_codec import pack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.adverts.advert import NodeAdvert
    from capamesh.protocol.adverts.sequence import Sequence
    from capamesh.protocol.ids import PeerId


class AdvertReader:
    """Remembers the last advert of each of `max_peers` peers; those longest silent are forgotten first."""

    def __init__(self, max_peers: int = 20_000) -> None:  # as many as a fleet's membership takes
        self._max_peers = max_peers
        self._last: OrderedDict[PeerId, tuple[bytes, NodeAdvert]] = OrderedDict()

    def read(self, body: Mapping[str, object], peer: PeerId, sequence: Sequence) -> NodeAdvert:
        """Return what `advert_from_body` does, and raise what it raises."""
        # Not the bodies themselves: Python takes 1, 1.0 and True for the same, and they take more memory.
        try:
            digest = hashlib.sha256(pack(body)).digest()
        except ValueError:  # an unknown field that was unpacked and cannot be packed: none is known
            return advert_from_body(body, peer, sequence)
        known = self._last.get(peer)
        if known is not None and known[0] == digest:
            advert = replace(known[1], sequence=sequence)
        else:
            advert = advert_from_body(body, peer, sequence)
        self._last[peer] = (digest, advert)
        self._last.move_to_end(peer)
        if len(self._last) > self._max_peers:
            self._last.popitem(last=False)
        return advert

    def forget(self, peer: PeerId) -> None:
        """The peer is gone."""
        self._last.pop(peer, None)

    def __len__(self) -> int:
        return len(self._last)

    @override
    def __repr__(self) -> str:
        return f"AdvertReader({len(self)} peers)"
