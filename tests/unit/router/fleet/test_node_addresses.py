"""Which of a node's addresses are dialled: few, of one host, and no further inside than the router is."""

from __future__ import annotations

import dataclasses

from fleet_fakes import advert, device, offer

from capamesh.protocol.adverts import NodeAdvert
from capamesh.protocol.reach import Inside
from capamesh.router.fleet.node_addresses import Dialled, dialled_of


def node(*devices: tuple[str, ...], models: int = 1) -> NodeAdvert:
    return dataclasses.replace(
        advert("A", models=[offer(f"m{number}") for number in range(models)]),
        devices=tuple(device(number, *addresses) for number, addresses in enumerate(devices)),
    )


def test_node_of_eight_devices_on_one_host_is_dialled_at_all_of_them() -> None:
    addresses = [f"192.168.1.9:{port}" for port in range(5000, 5008)]
    found = dialled_of(node(*((address,) for address in addresses)), Inside.PRIVATE)
    assert found == Dialled(tuple(addresses))


def test_sixty_four_devices_of_sixteen_addresses_become_sixteen_of_one_host() -> None:
    wild = node(
        *(
            tuple(f"10.{one}.{two}.1:{port}" for port in range(1, 17))
            for one in range(8)
            for two in range(8)
        )
    )
    found = dialled_of(wild, Inside.PRIVATE)
    assert found.addresses == tuple(f"10.0.0.1:{port}" for port in range(1, 5))
    assert found.refused == (
        "10.0.0.1:5, and 1019 more: at most 4 a device and 16 in all are dialled"
    )
    one_host = node(
        *(tuple(f"10.0.0.1:{64 * of + port}" for port in range(1, 17)) for of in range(64))
    )
    assert len(dialled_of(one_host, Inside.PRIVATE).addresses) == 16


def test_another_host_than_the_first_is_not_dialled() -> None:
    found = dialled_of(node(("a:1",), ("b:1",), ("a:2",)), Inside.PRIVATE)
    assert found == Dialled(("a:1", "a:2"), "b:1: one host a node is dialled, here a")


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


def test_address_that_is_named_twice_is_dialled_once() -> None:
    assert dialled_of(node(("a:1", "a:1"), ("a:1",)), Inside.LOOPBACK) == Dialled(("a:1",))
