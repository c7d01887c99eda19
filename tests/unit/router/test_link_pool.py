from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fleet_fakes import NullLog

from capamesh.router.candidates import Candidate
from capamesh.router.link_pool import MAX_VISITS_OF_PEER, LinkPool, _NodeSide


class Visit:
    """A verified link that a node opened."""

    def __init__(self, peer: str) -> None:
        self.member = SimpleNamespace(peer_id=peer)
        self.closed = ""

    def close(self, reason: str) -> None:
        self.closed = reason


class Pool:
    """A link pool, and what it told its owner."""

    def __init__(self) -> None:
        self.visits: list[Candidate] = []
        nothing: Any = None  # no link is dialled or checked here
        self.pool = LinkPool(
            nothing,
            nothing,
            on_visit=self.visits.append,
            on_leave=self.visits.remove,
            log=NullLog(),  # type: ignore[arg-type]  # it takes every event
        )

    def visit(self, peer: str) -> tuple[Visit, _NodeSide]:
        """A node dials and is verified."""
        link, side = Visit(peer), _NodeSide(self.pool, None)
        side.link_up(link)  # type: ignore[arg-type]  # a link's identity is all that counts here
        return link, side


def test_a_node_that_dials_without_end_is_limited_and_others_still_come_in() -> None:
    pool = Pool()
    links = [pool.visit("A") for _ in range(MAX_VISITS_OF_PEER)]
    assert [link.closed for link, _ in links] == [""] * 128
    assert len(pool.visits) == 128
    refused, side = pool.visit("A")
    assert refused.closed == "128 links of this peer are open, the limit; close one first"
    side.link_down(refused, refused.closed)  # type: ignore[arg-type]  # as above
    assert len(pool.visits) == 128
    other, _ = pool.visit("B")
    assert other.closed == ""
    assert pool.visits[-1].peer == "B"
    link, side = links[0]
    side.link_down(link, "gone")  # type: ignore[arg-type]  # as above
    again, _ = pool.visit("A")
    assert again.closed == ""
    assert len(pool.visits) == 129
