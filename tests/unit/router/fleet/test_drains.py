"""Nodes that the owner has drained, at one router: which endpoints get no new requests, and for how long."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from fleet_members import Members
from signed_adverts import NOW, NOW_MS, Network, says, says_goodbye

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import DrainOrder
from capamesh.router.fleet.endpoint import Endpoint

HOUR = dt.timedelta(hours=1)


def foreign_order() -> bytes:
    owner = Network().owner
    return owner.drain(DrainOrder.empty(owner.network_id), {}, now=NOW).encode()


class Router(Members):
    """A router, and the orders of its network's owner."""

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        super().__init__(folder, network)
        self.order = DrainOrder.empty(self.network.owner.network_id)
        self.node = self.network.member()
        self.peer = self.node.identity.peer_id

    def signed(self, *peers: PeerId, lasts: dt.timedelta = HOUR, at: dt.datetime = NOW) -> bytes:
        """Return the next order, which drains these."""
        self.order = self.network.owner.drain(self.order, dict.fromkeys(peers, at + lasts), now=at)
        return self.order.encode()

    def is_draining(self) -> list[bool]:
        """Return it of each endpoint of the node."""
        return [endpoint.is_draining for endpoint in self.fleet.endpoints_of(self.peer)]


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return Router(tmp_path)


def test_older_and_replayed_orders_change_nothing(router: Router) -> None:
    router.members.heard(says(router.node))
    older, newer = router.signed(router.peer), router.signed()
    router.drains.heard(newer)
    router.drains.heard(older)
    assert router.drains.post(older)[0].version == 2
    router.drains.heard(newer)
    assert router.is_draining() == [False]
    assert router.told_of_drains == []


def test_node_that_joins_later_or_dials_or_says_something_new_or_comes_back_stays_drained(
    router: Router,
) -> None:
    router.drains.heard(router.signed(router.peer))
    visiting = Endpoint(router.peer, "dialled-in-1")
    router.updates.visited(visiting)
    assert visiting.is_draining
    router.members.heard(says(router.node))
    assert router.is_draining() == [True, True]
    router.members.heard(says(router.node, port=7009, counter=2, region="eu"))
    assert router.is_draining() == [True, True]
    router.updates.visitor_left(visiting)
    router.members.heard(says_goodbye(router.node, counter=3))
    assert router.is_draining() == []
    router.members.heard(says(router.node, boot_ms=NOW_MS + 1))
    assert router.is_draining() == [True]


def test_damaged_file_is_set_aside_and_the_order_comes_again(
    router: Router, tmp_path: Path
) -> None:
    encoded = router.signed(router.peer)
    router.drains.heard(encoded)
    for damage in (b"", encoded[:-1], bytes(70_000), foreign_order()):
        (tmp_path / "drains.bin").write_bytes(damage)
        again = Router(tmp_path, router.network)
        assert again.drains.encoded == b""
        assert (tmp_path / "drains.bin.damaged").read_bytes() == damage
        again.drains.heard(encoded)
        assert (tmp_path / "drains.bin").read_bytes() == encoded


def test_order_of_another_owner_or_of_nobody_is_refused(router: Router) -> None:
    foreign = foreign_order()
    honest = router.signed()
    for bad in (foreign, bytes(64) + honest[64:], b"", bytes(70_000)):
        with pytest.raises(InvalidRequest):
            router.drains.post(bad)
    assert (router.drains.encoded, router.told_of_drains) == (b"", [])


def test_order_that_was_signed_by_a_clock_ahead_is_refused_and_one_heard_waits(
    router: Router,
) -> None:
    router.members.heard(says(router.node))
    ahead = router.signed(router.peer, at=NOW + HOUR)
    with pytest.raises(
        InvalidRequest, match="signed at 2026-10-01T13:00:00Z, and here it is 2026-10-01T12:00:00Z"
    ):
        router.drains.post(ahead)
    assert router.drains.encoded == b""
    router.drains.heard(ahead)  # from a member whose clock is ahead, too
    assert router.is_draining() == [False]
    router.clocks.pass_s(3600)
    router.drains.tick()
    assert router.is_draining() == [True]


JUMPS_S = (2 * 3600.0, -4 * 3600.0)
"""Beyond the end of a drain, and before it was signed."""


def test_clock_that_jumps_ends_drains_for_as_long_as_it_is_wrong(router: Router) -> None:
    router.updates.visited(Endpoint(router.peer, "dialled-in-1"))
    router.drains.heard(router.signed(router.peer))
    for jump_s in JUMPS_S:
        router.clocks.jumped_s = jump_s
        router.drains.tick()
        assert router.is_draining() == [False]
        router.clocks.jumped_s = 0.0
        router.drains.tick()
        assert router.is_draining() == [True]
    assert router.told_of_drains == ["changed"] * 5


def test_clock_that_jumps_ends_no_drain_where_members_tell_the_time(router: Router) -> None:
    router.members.heard(says(router.node))
    router.drains.heard(router.signed(router.peer))
    for jump_s in JUMPS_S:
        router.clocks.jumped_s = jump_s
        router.drains.tick()
        assert router.is_draining() == [True]
    assert router.told_of_drains == ["changed"]


def test_order_that_was_signed_beside_another_is_refused_and_does_not_undo_it(
    router: Router,
) -> None:
    """One operator drains while another enables: both have read the order before."""
    one, other = (router.network.member().identity.peer_id for _ in "ab")
    router.drains.post(router.signed(one))
    before = router.order
    drains_other = router.signed(one, other)
    router.order = before
    enables_one = router.signed(at=NOW + dt.timedelta(seconds=1))  # signed later: it would win
    assert router.drains.post(drains_other)[0].version == 2
    with pytest.raises(
        InvalidRequest,
        match=r"another drain order of version 2 came .*: sign again, from the newest",
    ):
        router.drains.post(enables_one)
    assert router.drains.encoded == drains_other
    assert router.drains.until(other) == NOW + HOUR
    # at two routers that do not hear of each other it cannot be refused: then all settle on one of them
    router.drains.heard(enables_one)
    assert router.drains.encoded == enables_one


def test_two_orders_of_two_workers_are_settled_and_both_passed_on(router: Router) -> None:
    """Each worker of a router takes what is posted to it; the main process hears of both."""
    one, other = (router.network.member().identity.peer_id for _ in "ab")
    earlier = router.signed(one)
    router.order = DrainOrder.empty(router.network.owner.network_id)
    later = router.signed(other, at=NOW + dt.timedelta(seconds=1))
    for encoded in (earlier, later, earlier):
        router.drains.spread(encoded)
    assert router.drains.encoded == later
    assert [said for said in router.told_of_drains if said != "changed"] == [earlier, later]
    with pytest.raises(InvalidRequest, match="bad signature"):
        router.drains.spread(bytes(100))
