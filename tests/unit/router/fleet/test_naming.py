"""Which nodes an operator means by a name, a peer id or a part of one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_fakes import advert

from capamesh.protocol.ids import PeerId
from capamesh.router.fleet.naming import nodes_meant

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
