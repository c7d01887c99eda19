"""Where members are reached, and how far inside a network they may be made to dial."""

from __future__ import annotations

import socket
from typing import ClassVar

import pytest

from capamesh.protocol import advertised_address as outward
from capamesh.protocol.advertised_address import (
    advertised_host,
    listen_multiaddr,
    reachable_multiaddr,
)
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.reach import Inside, innermost_to_dial, inside_of


class FakeSocket:
    """A machine with an outward address in each family that it has a route in."""

    outward: ClassVar[dict[int, str]] = {}
    has_ipv6 = True

    def __init__(self, family: int, kind: int) -> None:
        assert kind == socket.SOCK_DGRAM  # a datagram socket sends nothing
        if family == socket.AF_INET6 and not self.has_ipv6:
            raise OSError(97, "Address family not supported by protocol")
        self._family = family

    __enter__ = __exit__ = lambda self, *_: self

    def connect(self, address: tuple[str, int]) -> None:
        assert (":" in address[0]) == (self._family == socket.AF_INET6)
        if self._family not in self.outward:
            raise OSError(101, "Network is unreachable")

    def getsockname(self) -> tuple[str, int]:
        return (self.outward[self._family], 40_000)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[FakeSocket]:
    class Machine(FakeSocket):
        outward: ClassVar[dict[int, str]] = {socket.AF_INET: "10.1.2.3"}

    monkeypatch.setattr(outward.socket, "socket", Machine)
    return Machine


def test_wildcard_becomes_the_outward_address_and_another_address_is_itself(
    machine: type[FakeSocket],
) -> None:
    for host in ("127.0.0.1", "fe80::1", "node.example"):
        assert advertised_host(host) == host
    machine.outward[socket.AF_INET6] = "2001:db8::7"
    assert advertised_host("0.0.0.0") == "10.1.2.3"  # noqa: S104 - nothing listens here
    assert advertised_host("::") == advertised_host("0:0::0") == "2001:db8::7"
    assert advertised_host("0.0.0.0", "public.example") == "public.example"  # noqa: S104 - likewise
    machine.outward.clear()
    assert advertised_host("0.0.0.0") == "127.0.0.1"  # noqa: S104 - likewise
    assert advertised_host("::") == "::1"


@pytest.mark.parametrize("kind", ["no route", "link-local", "no IPv6"])
def test_all_of_ipv6_on_a_machine_that_others_reach_over_ipv4_needs_an_address_to_tell(
    machine: type[FakeSocket], kind: str
) -> None:
    machine.has_ipv6 = kind != "no IPv6"
    if kind == "link-local":
        machine.outward[socket.AF_INET6] = "fe80::1%eth0"
    with pytest.raises(ConfigError, match=r"listening on :: takes IPv6 alone.*--advertise"):
        advertised_host("::")
    assert advertised_host("::", "router.example") == "router.example"


def test_mesh_listens_on_addresses_of_both_families_and_reports_what_others_dial() -> None:
    assert listen_multiaddr("127.0.0.1", 4001) == "/ip4/127.0.0.1/tcp/4001"
    assert listen_multiaddr("::1", 0) == "/ip6/::1/tcp/0"
    with pytest.raises(ConfigError, match="not on the name 'localhost'"):
        listen_multiaddr("localhost", 4001)
    for addr, host, reached in (
        ("/ip4/0.0.0.0", "10.1.2.3", "/ip4/10.1.2.3"),
        ("/ip6/::", "fd00::1", "/ip6/fd00::1"),
        ("/ip4/0.0.0.0", "router.example", "/dns4/router.example"),
        ("/ip4/127.0.0.1", "10.1.2.3", "/ip4/127.0.0.1"),
    ):
        end = "/tcp/4001/p2p/x"
        assert reachable_multiaddr(addr + end, host) == reached + end


def test_address_lies_where_its_registry_says() -> None:
    lies: dict[str, Inside | None] = {
        "8.8.8.8": Inside.GLOBAL,
        **dict.fromkeys(("10.1.2.3", "100.64.0.1", "fd00::1"), Inside.PRIVATE),
        **dict.fromkeys(("169.254.169.254", "fe80::1"), Inside.LINK_LOCAL),
        "::ffff:169.254.169.254": Inside.LINK_LOCAL,
        **dict.fromkeys(("127.0.0.1", "::1", "::ffff:127.0.0.1"), Inside.LOOPBACK),
        **dict.fromkeys(("64:ff9b::7f00:1", "2002:7f00:1::"), Inside.LOOPBACK),
        "0.0.0.0": Inside.NOWHERE,  # noqa: S104 - it is not bound
        **dict.fromkeys(("0.1.2.3", "224.0.0.1", "240.0.0.1"), Inside.NOWHERE),
        **dict.fromkeys(("example.org", "127.1")),
    }
    assert {host: inside_of(host) for host in lies} == lies


def test_member_dials_no_further_inside_than_it_is_reached_itself() -> None:
    for own, route, inside in (
        (["127.0.0.1", "127.0.0.1"], "10.0.0.5", Inside.LOOPBACK),
        (["10.0.0.5", "10.0.0.5"], "10.0.0.5", Inside.PRIVATE),
        (["10.0.0.5", "127.0.0.1"], "10.0.0.5", Inside.PRIVATE),
        (["203.0.114.5"], "10.0.0.5", Inside.GLOBAL),
        (["router.example.org"], "172.18.0.2", Inside.PRIVATE),
        (["router.example.org"], "8.8.4.4", Inside.GLOBAL),
        (["router.example.org"], "", Inside.LOOPBACK),
        ([], "8.8.4.4", Inside.LOOPBACK),
    ):
        assert innermost_to_dial(own, route) is inside
