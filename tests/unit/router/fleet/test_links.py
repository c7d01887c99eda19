from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fleet_fakes import NullLog

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.ids import ModelName, ModelVersion, NetworkId, PeerId
from capamesh.protocol.links.calls import MAX_TOLD_BYTES, LoadReport, encode_load, encode_told_load
from capamesh.protocol.links.hello import Hello
from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.links import MAX_VISITS_OF_PEER, LinkPool, _NodeSide

pytestmark = pytest.mark.pure


class Visit:
    """A verified link that a node opened."""

    def __init__(self, peer: str, invite: str = "") -> None:
        self.member = SimpleNamespace(
            peer_id=peer, invite_serial=invite or f"of {peer}", invite_members=3 if invite else 64
        )
        self.closed = ""

    def close(self, reason: str) -> None:
        self.closed = reason


class Pool:
    """A link pool, and what it told its owner."""

    def __init__(self) -> None:
        self.visits: list[Endpoint] = []
        nothing: Any = None  # no link is dialled or checked here
        log: Any = NullLog()
        self.pool = LinkPool(
            nothing,
            nothing,
            on_visit=self.visits.append,
            on_leave=self.visits.remove,
            on_linked=lambda _: None,
            log=log,
        )

    def side(self, endpoint: Endpoint | None = None) -> Any:
        return _NodeSide(self.pool, endpoint)

    def visit(self, peer: str, invite: str = "") -> tuple[Visit, Any]:
        """A node dials and is verified."""
        link, side = Visit(peer, invite), self.side()
        side.link_up(link)
        return link, side


def test_node_that_dials_without_end_is_limited_and_others_still_come_in() -> None:
    pool = Pool()
    links = [pool.visit("A") for _ in range(MAX_VISITS_OF_PEER)]
    assert [link.closed for link, _ in links] == [""] * 128
    assert len(pool.visits) == 128
    refused, side = pool.visit("A")
    assert refused.closed == "128 links of this peer are open, the limit; close one first"
    side.link_down(refused, refused.closed)
    assert len(pool.visits) == 128
    other, _ = pool.visit("B")
    assert other.closed == ""
    assert pool.visits[-1].peer == "B"
    link, side = links[0]
    side.link_down(link, "gone")
    again, _ = pool.visit("A")
    assert again.closed == ""
    assert len(pool.visits) == 129


def test_older_link_that_ends_late_takes_nothing_from_the_newer() -> None:
    pool, endpoint = Pool(), Endpoint(PeerId("B"), "b:1")
    side = pool.side(endpoint)
    older, newer = Visit("B"), Visit("B")
    side.link_up(older)
    side.link_up(newer)
    side.link_down(older, "replaced")
    assert endpoint.link is newer
    side.link_down(newer, "gone")
    assert endpoint.link is None


def test_load_that_a_node_tells_unasked_is_handed_on_and_junk_ends_its_link() -> None:
    pool, endpoint = Pool(), Endpoint(PeerId("B"), "b:1")
    told: list[object] = []
    pool.pool.on_load = lambda *what: told.append(what)
    side, link, older = pool.side(endpoint), Visit("B"), Visit("B")
    side.link_up(link)
    what = (ModelName("m"), ModelVersion("3"), LoadReport(in_flight=1))
    side.load_told(link, encode_told_load(*what))
    side.load_told(older, b"not even read")
    assert older.closed == ""
    assert told == [(endpoint, *what)]
    long = encode_told_load(ModelName("m" * MAX_TOLD_BYTES), *what[1:])
    for junk in (b"junk", encode_load(what[2]), long):
        link.closed = ""
        side.load_told(link, junk)
        assert link.closed.startswith("protocol_violation: the metadata of a LOAD")
    assert len(told) == 1


def test_node_that_takes_smaller_messages_than_the_router_takes_requests_is_refused() -> None:
    pool = Pool()
    most = DEFAULT_LIMITS.max_message_bytes
    for message_bytes in (1, most - 1):
        hello = Hello(NetworkId("n"), (), "test", 1, message_bytes)
        with pytest.raises(ProtocolViolation, match=f"at most {message_bytes} bytes"):
            pool.side().verify(hello, b"")


def test_invite_lets_as_many_nodes_dial_as_it_admits_with_so_many_links() -> None:
    pool = Pool()
    for peer in "ABC":
        assert pool.visit(peer, "i")[0].closed == ""
    assert pool.visit("D", "i")[0].closed == (
        "its invite admits 3 members, and as many have dialled this router"
    )
    assert pool.visit("D", "j")[0].closed == ""
    links = [pool.visit(peer, "i") for _ in range(60) for peer in "ABC"]
    refused = [link.closed for link, _ in links if link.closed]
    assert len(links) - len(refused) == MAX_VISITS_OF_PEER - 3
    assert set(refused) == {
        "128 links of members of its invite are open, the limit; close one first"
    }
