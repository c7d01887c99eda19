"""The way of one advert or revocation list: who comes into the fleet, who leaves it, and whom that concerns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import advert, offer
from fleet_members import Members
from signed_adverts import Network, says, says_goodbye

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.fleet import Changed, Joined, Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.network import RevocationList
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.overrides import Hold
from capamesh.router.fleet.revocations import Revocations
from capamesh.router.resilience.health import CircuitState

A = PeerId("A")


class Router(Members):
    """A router's membership, its revocations, and what these told others."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.told: list[object] = []
        log: Any = self.log
        self.revocations = Revocations(
            self.trust,
            self.membership,
            DataDir(folder),
            self.members,
            disown=self.owners.expel,
            recheck_links=lambda: self.told.append("links"),
            pass_on=self.told.append,
            on_taken=lambda: self.told.append("taken"),
            log=log,
        )


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return Router(tmp_path)


def test_advert_brings_its_node_into_the_view_and_has_it_dialled(router: Members) -> None:
    node = router.network.member()
    peer = node.identity.peer_id
    router.members.heard(says(node, 7001))
    assert (router.peers, router.hurried) == ([peer], [("127.0.0.1:7001", True)])
    assert [endpoint.address for endpoint in router.dialled] == ["127.0.0.1:7001"]
    told = {"node": "gpu-1", "peer": peer, "models": ["m/1"]}
    assert router.log.told == [("node_joined", told)]
    assert [type(change) for change in router.changes[0]] == [Joined]


def test_advert_with_another_address_has_the_old_one_let_go_and_the_new_one_dialled(
    router: Members,
) -> None:
    node = router.network.member()
    router.members.heard(says(node, 7001, counter=1))
    router.members.heard(says(node, 7002, counter=2, is_draining=True))
    assert [endpoint.address for endpoint in router.let_go] == ["127.0.0.1:7001"]
    assert [endpoint.address for endpoint in router.dialled] == ["127.0.0.1:7001", "127.0.0.1:7002"]
    changed = {"node": "gpu-1", "peer": node.identity.peer_id, "is_draining": True}
    assert router.log.of("node_changed") == [changed]


def left(router: Members) -> list[tuple[str, str]]:
    """Return who has left, and why, by the log."""
    return [
        (values["peer"], values.get("reason", event))
        for event, values in router.log.told
        if event in {"node_left", "node_lost"}
    ]


def test_node_is_missed_by_the_interval_that_it_told(router: Members) -> None:
    often, seldom = router.network.member(), router.network.member()
    router.members.heard(says(often, 7001, interval_s=10))
    router.members.heard(says(seldom, 7002, interval_s=100))
    router.clocks.pass_s(340)
    for _ in range(2):  # a node is suspected before it is gone
        router.members.tick()
    assert left(router) == [(often.identity.peer_id, "node_lost")]
    router.clocks.pass_s(11)
    router.members.tick()
    assert left(router)[1:] == [(seldom.identity.peer_id, "node_lost")]


# the operator's word


def states(router: Members) -> set[str]:
    now_s = router.clocks.steady_s()
    endpoints = router.fleet.endpoints_of(A)
    replicas = [one for endpoint in endpoints for one in router.fleet.replicas_at(endpoint)]
    return {str(one.health.state(now_s)) for one in (*endpoints, *replicas)}


def test_models_that_a_held_node_comes_back_with_are_held(router: Members) -> None:
    for model in ("", "m"):
        router.overrides.hold(Hold(A, ModelName(model), ModelVersion(""), CircuitState.FORCED_OPEN))
    first = advert("A", "a:1")
    router.members.apply([Joined(first)])
    assert states(router) == {"forced_open"}
    more = advert("A", "a:2", models=(offer(version="1"), offer(version="2")), counter=2)
    router.members.apply([Changed(more, first)])
    assert states(router) == {"forced_open"}
    router.members.apply([Left(A, LeftReason.GOODBYE)])
    router.members.apply([Joined(advert("A", models=(offer(),), counter=3))])
    assert states(router) == set()
    visitor = Endpoint(A, "dialled-in-1")
    router.updates.visited(visitor)
    assert states(router) == {"forced_open"}
    router.overrides.hold(Hold(A, ModelName(""), ModelVersion(""), None))
    router.overrides.apply_anew(router.fleet, A, router.clocks.steady_s())
    assert states(router) == {"closed"}  # its models were let go of with it
    assert (router.overrides.peers, router.overrides.of(A)) == ([], [])
    router.updates.visitor_left(visitor)
    assert states(router) == set()


# the last fleet


def test_router_that_starts_again_knows_the_fleet_that_it_knew_last(
    router: Members, tmp_path: Path
) -> None:
    stays, goes = router.network.member(), router.network.member()
    kept = [says(stays, 1), says(goes, 2)]
    again = Members(tmp_path, router.network)
    again.members.restore(kept)
    assert again.peers == [stays.identity.peer_id, goes.identity.peer_id]
    assert again.log.of("last_fleet_restored") == [{"nodes": 2}]
    assert not again.last_fleet.is_changed  # it is on the disk
    assert again.hurried == []  # nobody has shown that it is there
    again.members.heard(says(stays, 3, counter=2))
    assert [each.address for each in again.fleet.endpoints_of(stays.identity.peer_id)] == [
        "127.0.0.1:3"
    ]
    again.members.heard(says_goodbye(goes))
    assert len(again.last_fleet) == 1


def test_kept_node_that_was_revoked_meanwhile_or_is_no_member_is_not_taken(
    router: Members, tmp_path: Path
) -> None:
    network, stays = router.network, router.network.member()
    revoked, stranger = network.member(), Members(tmp_path / "other").network.member()
    encoded = network.revoking(peer=revoked.identity.peer_id)
    router.trust.update(RevocationList.decode(encoded, network.owner.ca_der))
    router.members.restore([says(revoked), says(stranger), says(stays)])
    assert router.peers == [stays.identity.peer_id]
    refused = [values["reason"] for values in router.log.of("last_fleet_member_refused")]
    assert refused == ["membership", "network"]
    assert router.log.of("last_fleet_restored") == [{"nodes": 1}]


def test_revoked_invite_expels_all_that_it_admitted_and_nobody_else(router: Router) -> None:
    network = router.network
    revoked, kept = network.invite(), network.invite()
    out = [network.member(revoked) for _ in "ab"]
    stays = network.member(kept)
    for port, node in enumerate((*out, stays), 7001):
        router.members.heard(says(node, port))
    encoded = network.revoking(token=revoked)
    revocations, is_kept = router.revocations.post(encoded)
    assert (revocations.encode(), is_kept) == (encoded, True)
    assert router.peers == [stays.identity.peer_id]
    assert left(router) == [(node.identity.peer_id, "revoked") for node in out]
    assert router.told == ["links", "taken", encoded]
    router.members.heard(says(network.member(revoked), 7004))
    assert router.peers == [stays.identity.peer_id]
    assert [values["reason"] for values in router.log.of("advert_rejected")] == ["membership"]


def test_list_of_another_owner_is_refused(router: Router) -> None:
    other = Network()
    foreign = other.revoking(peer=other.member().identity.peer_id)
    with pytest.raises(InvalidRequest):
        router.revocations.post(foreign)
    assert router.told == []
    assert router.trust.revocations.version == 0


def test_revoked_node_loses_its_say_on_files_though_it_has_left_before(router: Router) -> None:
    node = router.network.member()
    peer = node.identity.peer_id
    router.members.heard(says(node))
    router.members.heard(says_goodbye(node))
    assert router.peers == []
    (pin,) = router.owners.owners.pins()
    assert [holder for holder, _ in pin.holders] == [peer]
    router.revocations.heard(router.network.revoking(peer=peer))
    (pin,) = router.owners.owners.pins()
    assert pin.holders == ()
