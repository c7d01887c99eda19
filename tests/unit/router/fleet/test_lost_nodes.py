"""The nodes that a router has lost: who counts as lost, until when, what is said of it, and how many are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fleet_fakes import offer
from fleet_members import Members
from signed_adverts import says, says_goodbye

from capamesh.protocol.adverts import Device
from capamesh.protocol.ids import PeerId
from capamesh.protocol.network import Membership, RevocationList
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.last_fleet_file import LastFleetFile
from capamesh.router.fleet.lost_nodes import KEPT_MS, MOST, MOST_OF_INVITE, LostNodes
from capamesh.router.http.admin_fleet import FleetApi
from capamesh.router.telemetry import Telemetry

DAY_S = KEPT_MS / 1000
M = (offer("m", "1"),)
UNREACHED = (Device(0, "cpu", "cpu", "CPUExecutionProvider", 100, 50, ()),)
"""The devices of a node that has no address and dials the routers."""


@pytest.fixture
def router(tmp_path: Path) -> Members:
    return Members(tmp_path)


def vanish(router: Members, *nodes: Membership) -> None:
    """Let no word of these nodes come any more until they are missed."""
    router.unreached.update(node.identity.peer_id for node in nodes)
    router.clocks.pass_s(23)
    router.members.tick()


def lost(router: Members) -> list[PeerId]:
    return [PeerId(node.peer) for node in router.lost.nodes()]


def ready(router: Members) -> list[tuple[str, int, int, tuple[str, ...]]]:
    found = router.lost.short(router.fleet.nodes_ready)
    return [(one.name, one.nodes_ready, one.nodes_before, one.lost) for one in found]


def test_node_that_vanishes_is_lost_until_it_returns_and_its_models_are_short(
    router: Members,
) -> None:
    stays, goes = router.network.member(), router.network.member()
    for node, name in ((stays, "stays"), (goes, "goes")):
        router.members.heard(says(node, name=name, models=M))
    router.clocks.pass_s(10)
    router.members.heard(says(stays, counter=2, name="stays", models=M))
    router.unreached.add(goes.identity.peer_id)
    router.clocks.pass_s(13)
    router.members.tick()
    peer = goes.identity.peer_id
    assert (lost(router), router.peers) == ([peer], [stays.identity.peer_id])
    told = {"node": "goes", "peer": peer, "models": ["m/1"]}
    assert router.log.warnings == [("node_lost", told)]
    assert ready(router) == [("m", 1, 2, ("goes",))]
    router.clocks.pass_s(30)
    router.members.heard(says(goes, counter=2, name="goes", models=M))
    assert (lost(router), ready(router)) == ([], [])
    assert router.log.of("node_returned") == [{"node": "goes", "peer": peer, "away_s": 30}]


def test_model_that_another_node_has_instead_is_not_short(router: Members) -> None:
    goes, comes = router.network.member(), router.network.member()
    router.members.heard(says(goes, models=M))
    vanish(router, goes)
    assert [row[:3] for row in ready(router)] == [("m", 0, 1)]
    router.members.heard(says(comes, models=M))
    assert (len(lost(router)), ready(router)) == (1, [])


def test_node_that_says_goodbye_or_drains_is_not_lost(router: Members) -> None:
    polite, draining = router.network.member(), router.network.member()
    router.members.heard(says(polite))
    router.members.heard(says(draining, is_draining=True))
    router.members.heard(says_goodbye(polite))
    vanish(router, draining)
    assert (router.peers, lost(router)) == ([], [])
    assert [values["reason"] for values in router.log.of("node_left")] == ["goodbye", "expired"]


def test_node_that_dials_this_router_is_missed_as_soon_once_it_has_hung_up(router: Members) -> None:
    hangs_up, is_back, never_dialled = nodes = [router.network.member() for _ in range(3)]
    first, second = links = [Endpoint(node.identity.peer_id, "dialled-in") for node in nodes[:2]]
    for node in nodes:
        router.members.heard(says(node, devices=UNREACHED))
    for link in links:
        router.updates.visited(link)
        router.updates.visitor_left(link)
    router.updates.visited(second)
    router.clocks.pass_s(23)
    router.members.tick()
    assert lost(router) == [hangs_up.identity.peer_id]
    assert router.fleet.has_hung_up(first.peer) is False  # it is not kept of nodes that are gone
    router.clocks.pass_s(12)
    router.members.tick()
    assert set(lost(router)) == {
        first.peer,
        is_back.identity.peer_id,
        never_dialled.identity.peer_id,
    }


def test_node_that_is_only_silent_is_waited_for_longer(router: Members) -> None:
    node = router.network.member()
    router.members.heard(says(node))
    router.clocks.pass_s(34)
    router.members.tick()
    assert lost(router) == []
    router.clocks.pass_s(1)
    router.members.tick()
    assert lost(router) == [node.identity.peer_id]


def test_lost_node_is_forgotten_after_a_day_by_the_operator_and_when_it_is_revoked(
    router: Members,
) -> None:
    old, let_go, revoked = nodes = [router.network.member() for _ in range(3)]
    for node in nodes:
        router.members.heard(says(node))
    vanish(router, *nodes)
    assert len(lost(router)) == 3
    assert router.lost.forget(let_go.identity.peer_id) is not None
    encoded = router.network.revoking(peer=revoked.identity.peer_id)
    router.members.expel(RevocationList.decode(encoded, router.network.owner.ca_der))
    assert lost(router) == [old.identity.peer_id]
    router.clocks.pass_s(DAY_S - 1)
    router.members.tick()
    assert len(lost(router)) == 1
    router.clocks.pass_s(1)
    router.members.tick()
    assert lost(router) == []


def test_router_that_starts_again_knows_whom_it_has_lost(router: Members, tmp_path: Path) -> None:
    node = router.network.member()
    router.members.heard(says(node, name="goes", models=M))
    vanish(router, node)

    def file(of: Members) -> LastFleetFile:
        log: object = of.log
        return LastFleetFile(tmp_path, of.last_fleet, of.lost, of.clocks, log)  # type: ignore[arg-type]

    file(router).write()
    again = Members(tmp_path, router.network)
    kept = file(again).read()
    assert kept is not None
    again.lost.restore([*kept[1], {"peer": "\x1b[2J"}, 7])
    assert again.lost.nodes() == router.lost.nodes()


def test_members_that_come_and_go_under_ever_new_names_take_the_places_of_their_invite_alone() -> (
    None
):
    kept = LostNodes()
    kept.joined(PeerId("honest"), "a", 0.0)
    kept.joined(PeerId("old"), "b", 0.0)
    for peer in ("honest", "old"):
        kept.lost(PeerId(peer), peer, {}, now_s=1000.0, wall_ms=0)
    for number in range(10_000):
        kept.joined(PeerId(str(number)), "b", 1000.0 + number)
        kept.lost(PeerId(str(number)), "old", {}, now_s=1001.0 + number, wall_ms=number)
    assert len(kept) == 1 + MOST_OF_INVITE
    assert {"honest", "old"} < {node.peer for node in kept.nodes()}
    for number in range(10_000):
        peer = PeerId(f"of-many-{number}")
        kept.joined(peer, f"invite-{number % 100}", 0.0)
        kept.lost(peer, "", {}, now_s=1.0, wall_ms=number)
    assert len(kept) == MOST
    assert {"honest", "old"} < {node.peer for node in kept.nodes()}


def test_page_of_nodes_is_made_one_lost_node_after_the_other(router: Members) -> None:
    nodes = [router.network.member() for _ in range(3)]
    for node in nodes:
        router.members.heard(says(node))
    vanish(router, *nodes)
    none: Any = None
    api = FleetApi(
        router.fleet,
        none,
        Telemetry(),
        revoke=none,
        drains=router.drains,
        arrival_s=1.0,
        clock=router.clocks.steady_s,
        lost=router.lost,
    )
    pieces = list(api._pieces())
    assert {row["peer_id"] for row in json.loads(b"".join(pieces))["lost"]} == set(lost(router))
    assert max(piece.count(b"peer_id") for piece in pieces) == 1
