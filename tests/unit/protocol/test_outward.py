from __future__ import annotations

import socket

import pytest

from capamesh.protocol import outward
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.outward import (
    advertised_host,
    listen_multiaddr,
    reachable_multiaddr,
    require_free,
)


class FakeSocket:
    """A machine whose outward address is 10.1.2.3, or that has no route."""

    has_route = True
    asked: list[tuple[str, int]]

    def __init__(self, family: int, kind: int) -> None:
        assert (family, kind) == (
            socket.AF_INET,
            socket.SOCK_DGRAM,
        )  # a datagram socket sends nothing

    def __enter__(self) -> FakeSocket:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, address: tuple[str, int]) -> None:
        if not self.has_route:
            raise OSError(101, "Network is unreachable")

    def getsockname(self) -> tuple[str, int]:
        return ("10.1.2.3", 40_000)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[FakeSocket]:
    class Machine(FakeSocket):
        pass

    monkeypatch.setattr(outward.socket, "socket", Machine)
    return Machine


@pytest.mark.parametrize("host", ["127.0.0.1", "192.168.1.9", "::1", "fe80::1", "node.example", ""])
def test_what_names_one_place_is_itself(machine: type[FakeSocket], host: str) -> None:
    assert advertised_host(host) == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - nothing listens here
def test_a_wildcard_becomes_the_outward_address(machine: type[FakeSocket], host: str) -> None:
    assert advertised_host(host) == "10.1.2.3"
    machine.has_route = False
    assert advertised_host(host) == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "name"])  # noqa: S104 - likewise
def test_what_the_operator_says_wins(machine: type[FakeSocket], host: str) -> None:
    assert advertised_host(host, "public.example") == "public.example"


def test_the_mesh_listens_on_addresses_of_both_families_and_not_on_names() -> None:
    assert listen_multiaddr("127.0.0.1", 4001) == "/ip4/127.0.0.1/tcp/4001"
    assert listen_multiaddr("::1", 0) == "/ip6/::1/tcp/0"
    with pytest.raises(ConfigError, match="not on the name 'localhost'"):
        listen_multiaddr("localhost", 4001)


def test_a_port_that_another_listens_on_is_refused_also_when_it_would_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127.0.0.1:{port}: .*; give another --mesh"):
            require_free("127.0.0.1", port, "--mesh")
    require_free("127.0.0.1", port, "--mesh")
    require_free("127.0.0.1", 0, "--mesh")


@pytest.mark.parametrize(
    ("addr", "host", "reached"),
    [
        ("/ip4/0.0.0.0/tcp/4001/p2p/x", "10.1.2.3", "/ip4/10.1.2.3/tcp/4001/p2p/x"),
        ("/ip6/::/tcp/4001/p2p/x", "fd00::1", "/ip6/fd00::1/tcp/4001/p2p/x"),
        ("/ip4/0.0.0.0/tcp/4001/p2p/x", "router.example", "/dns4/router.example/tcp/4001/p2p/x"),
        ("/ip4/127.0.0.1/tcp/4001/p2p/x", "10.1.2.3", "/ip4/127.0.0.1/tcp/4001/p2p/x"),
    ],
)
def test_a_wildcard_s_multiaddr_is_told_with_the_address_that_others_dial(
    addr: str, host: str, reached: str
) -> None:
    assert reachable_multiaddr(addr, host) == reached
