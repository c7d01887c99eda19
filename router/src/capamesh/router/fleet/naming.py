"""The nodes that an operator means: by their names, their peer ids or parts of these. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from capamesh.protocol.member_name import shown_names

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId

MIN_PART_CHARS: Final = 4
"""The fewest characters of a peer id's beginning or end that name it (guess): 58 ** 4 are enough for a fleet, and fewer are
more likely a slip."""
MOST_SHOWN: Final = 5
"""The most nodes that an error lists (guess: as many as one reads)."""
_BETWEEN: Final = "…"
"""Stands between a name and the end of a peer id, and before the end alone, where people are shown these."""


class Named(Protocol):
    """A node that calls itself by a name: its advert, or what a router's page tells of it."""

    @property
    def name(self) -> str:
        """The name, "" where there is none."""
        ...


Adverts = Mapping["PeerId", Named]


def name_of(adverts: Adverts, peer: PeerId) -> str:
    """Return the name of a node for people, "" where it has none or is not in the fleet."""
    advert = adverts.get(peer)
    return "" if advert is None else advert.name


def nodes_meant(given: str, adverts: Adverts, others: Iterable[PeerId] = ()) -> list[PeerId]:
    """Return the nodes that `given` may mean; `others` are known, and not in the fleet now.

    It is a whole peer id, which means that node alone; or a name, the beginning or the end of a peer id, or a name and
    the end of a peer id with "…" between them, as tables show it. A node that calls itself as the peer id of another ends
    is one of several that are meant, so that a name can lead no order to a node that the operator does not mean.
    """
    known = dict.fromkeys([*adverts, *others])
    for peer in known:
        if peer == given:
            return [peer]
    name, between, end = given.rpartition(_BETWEEN)
    if between:
        return [
            peer
            for peer in known
            if _is_part(end) and peer.endswith(end) and name in {"", name_of(adverts, peer)}
        ]
    return [
        peer
        for peer in known
        if (given and name_of(adverts, peer) == given)
        or (_is_part(given) and (peer.startswith(given) or peer.endswith(given)))
    ]


def not_one(given: str, meant: list[PeerId], adverts: Adverts, kind: str = "fleet's") -> str:
    """Return what is wrong with an order for `given`, which means none or several nodes of this kind."""
    if meant:
        return f"{given!r} may mean {len(meant)} nodes: {_listed(meant, adverts)}; give the whole peer id of one"
    return (
        f"no node is named {given[:80]!r}, and no peer id is, begins or ends so (with {MIN_PART_CHARS} characters at"
        f" least); the {kind} nodes: {_listed(list(adverts), adverts) or 'none'}"
    )


def _is_part(text: str) -> bool:
    return len(text) >= MIN_PART_CHARS


def _listed(peers: list[PeerId], adverts: Adverts) -> str:
    names = shown_names({peer: name_of(adverts, peer) for peer in peers})
    listed = [f"{names[peer]} ({peer})" if peer in names else peer for peer in peers[:MOST_SHOWN]]
    return ", ".join(listed) + (" and more" if len(peers) > MOST_SHOWN else "")
