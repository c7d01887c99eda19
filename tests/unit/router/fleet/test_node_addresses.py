"""Which of a node's addresses are dialled: few, of one host, and no further inside than the router is."""

from __future__ import annotations

import dataclasses

from fleet_fakes import advert, device, offer

from capamesh.protocol.adverts import NodeAdvert
from capamesh.protocol.reach import Inside
from capamesh.router.fleet.node_addresses import dialled_of


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
