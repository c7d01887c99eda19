"""Which nodes an operator means by a name, a peer id or a part of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_fakes import advert

from capamesh.protocol.ids import PeerId
from capamesh.router.fleet.naming import name_of, nodes_meant, not_one

PEERS = [PeerId(peer) for peer in ("12D3KooWaaaa9xKq", "12D3KooWbbbb7zTr", "12D3KooWcccc5mNs")]
ADVERTS = {
    peer: replace(advert(peer, "127.0.0.1:1"), name=name)
    for peer, name in zip(PEERS, ("gpu", "gpu", "front"), strict=True)
}


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ("12D3KooWaaaa9xKq", [0]),
        ("front", [2]),
        ("gpu", [0, 1]),
        ("gpu…9xKq", [0]),
        ("…9xKq", [0]),
        ("gpu…5mNs", []),
        ("gpu…", []),
        ("9xKq", [0]),
        ("xKq", []),
        ("12D3KooWb", [1]),
        ("12D3", [0, 1, 2]),
        ("", []),
        ("fro", []),
        ("nobody", []),
    ],
)
def test_node_is_meant_by_its_name_its_peer_id_or_a_part_of_that(
    given: str, numbers: list[int]
) -> None:
    assert nodes_meant(given, ADVERTS) == [PEERS[number] for number in numbers]


def test_node_that_takes_the_end_of_another_s_peer_id_for_a_name_is_one_of_two() -> None:
    hostile = {**ADVERTS, PEERS[2]: replace(ADVERTS[PEERS[2]], name="9xKq")}
    assert nodes_meant("9xKq", hostile) == [PEERS[0], PEERS[2]]


def test_whole_peer_id_means_that_node_though_another_calls_itself_so() -> None:
    hostile = {**ADVERTS, PEERS[2]: replace(ADVERTS[PEERS[2]], name=PEERS[0])}
    assert nodes_meant(PEERS[0], hostile) == [PEERS[0]]


def test_node_that_is_away_is_meant_by_its_peer_id_alone() -> None:
    away = PeerId("12D3KooWdddd3pLm")
    assert nodes_meant("3pLm", ADVERTS, [away]) == [away]
    assert name_of(ADVERTS, away) == ""


def test_order_that_means_several_lists_them_with_names_and_whole_peer_ids() -> None:
    assert not_one("gpu", PEERS[:2], ADVERTS) == (
        "'gpu' may mean 2 nodes: gpu…aaaa9xKq (12D3KooWaaaa9xKq), gpu…bbbb7zTr (12D3KooWbbbb7zTr); give the whole"
        " peer id of one"
    )


def test_order_that_means_none_lists_the_fleet() -> None:
    assert not_one("x" * 100, [], ADVERTS) == (
        f"no node is named {'x' * 80!r}, and no peer id is, begins or ends so (with 4 characters at least); the fleet's"
        " nodes: gpu…aaaa9xKq (12D3KooWaaaa9xKq), gpu…bbbb7zTr (12D3KooWbbbb7zTr), front (12D3KooWcccc5mNs)"
    )
    assert not_one("gpu", [], {}).endswith("nodes: none")
