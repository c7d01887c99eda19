"""Which of a node's addresses are dialled, which nodes an operator means, and what an operator is told of them."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from fleet_fakes import advert, device, offer

from capamesh.protocol.adverts import NodeAdvert
from capamesh.protocol.ids import PeerId
from capamesh.protocol.invite_quotas import OverQuota
from capamesh.protocol.reach import Inside
from capamesh.router.fleet.naming import nodes_meant
from capamesh.router.fleet.node_addresses import dialled_of
from capamesh.router.fleet.notices import Notices


def node(*devices: tuple[str, ...], models: int = 1) -> NodeAdvert:
    return dataclasses.replace(
        advert("A", models=[offer(f"m{number}") for number in range(models)]),
        devices=tuple(device(number, *addresses) for number, addresses in enumerate(devices)),
    )


def test_address_further_inside_than_the_router_is_not_dialled() -> None:
    found = dialled_of(node(("127.0.0.1:80",), ("10.0.0.1:80",), ("8.8.8.8:80",)), Inside.GLOBAL)
    assert found.addresses == ("8.8.8.8:80",)
    assert found.refused == (
        "127.0.0.1:80, and 1 more: loopback addresses are not dialled: this router is reached at a global one; "
        "see --dial-inside"
    )
    assert dialled_of(node(("169.254.169.254:80",)), Inside.PRIVATE).addresses == ()
    assert dialled_of(node(("127.0.0.1:80",)), Inside.LOOPBACK).addresses == ("127.0.0.1:80",)
    assert dialled_of(node(("224.0.0.1:80",), ("0.0.0.0:80",)), Inside.LOOPBACK).addresses == ()


def test_node_of_more_models_has_fewer_of_its_addresses_dialled() -> None:
    sixteen = [(f"a:{port}",) for port in range(1, 17)]
    assert len(dialled_of(node(*sixteen, models=256), Inside.LOOPBACK).addresses) == 16
    assert len(dialled_of(node(*sixteen, models=1024), Inside.LOOPBACK).addresses) == 4
    assert dialled_of(node(*sixteen, models=1024), Inside.LOOPBACK).refused == (
        "a:5, and 11 more: at most 4 a device and 4 in all are dialled"
    )


PEERS = [PeerId(peer) for peer in ("12D3KooWaaaa9xKq", "12D3KooWbbbb7zTr", "12D3KooWcccc5mNs")]
ADVERTS = {
    peer: replace(advert(peer, "127.0.0.1:1"), name=name)
    for peer, name in zip(PEERS, ("gpu", "gpu", "front"), strict=True)
}


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        *((each, [0]) for each in ("12D3KooWaaaa9xKq", "gpu…9xKq", "…9xKq", "9xKq")),
        *(("12D3KooWb", [1]), ("front", [2]), ("gpu", [0, 1]), ("12D3", [0, 1, 2])),
        *((each, []) for each in ("gpu…5mNs", "gpu…", "xKq", "", "fro", "nobody")),
    ],
)
def test_node_is_meant_by_its_name_its_peer_id_or_a_part_of_that(
    given: str, numbers: list[int]
) -> None:
    assert nodes_meant(given, ADVERTS) == [PEERS[number] for number in numbers]


OVER = OverQuota("i", 64, 64, 1000, 5)


def test_invite_over_its_quota_is_reported_once_until_it_is_so_again() -> None:
    notices = Notices()
    (reported,) = notices.about([OVER], None)
    quota = {"invite": "i", "admits": 64, "members": 64, "used_bytes": 1000, "refused": 5}
    assert (reported.event, reported.fields) == ("invite_over_quota", quota)
    assert [len(notices.about(over, None)) for over in ([OVER], [], [OVER])] == [0, 0, 1]
