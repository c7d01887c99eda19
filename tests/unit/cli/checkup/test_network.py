"""The judgements of clocks, tokens and addresses, and the reading of what others say."""

from __future__ import annotations

import datetime as dt

import pytest

from capamesh.cli.checkup.findings import State
from capamesh.cli.checkup.network import Clock, Reach, check_clock, check_reach, check_token
from capamesh.cli.checkup.network_probes import mesh_address, router_address, time_of


@pytest.mark.parametrize(
    ("ahead_s", "state", "seen"),
    [
        (5.0, State.OK, "as the router's"),
        (5.1, State.WARN, "5 s ahead of the router's"),
        (-60.0, State.WARN, "60 s behind the router's"),
        (-61.0, State.FAIL, "61 s behind the router's; memberships and adverts are judged by it"),
    ],
)
def test_clock_is_compared_with_the_routers(ahead_s: float, state: State, seen: str) -> None:
    found = check_clock(Clock(ahead_s=ahead_s, is_synchronised=False))
    assert (found.state, found.seen) == (state, seen)


@pytest.mark.parametrize(
    ("is_synchronised", "state"), [(True, State.OK), (False, State.WARN), (None, State.SKIP)]
)
def test_clock_without_a_router_is_as_the_system_says(
    is_synchronised: bool | None, state: State
) -> None:
    assert check_clock(Clock(is_synchronised=is_synchronised)).state is state


def test_token_that_cannot_be_used_is_a_failure() -> None:
    assert check_token("the join token expired", "").state is State.FAIL
    assert check_token("", "admits a node until tomorrow").seen == "admits a node until tomorrow"


def test_addresses_are_told_one_by_one() -> None:
    found = check_reach((Reach("10.0.0.5:8000", ""), Reach("[::1]:4001", "Connection refused")))
    assert [(each.check, each.state, each.run) for each in found] == [
        ("reach 10.0.0.5:8000", State.OK, ""),
        ("reach [::1]:4001", State.FAIL, "nc -vz ::1 4001"),
    ]
    (quoted,) = check_reach((Reach("$(reboot):4001", "no such name"),))
    assert quoted.run == "nc -vz '$(reboot)' 4001"
    assert [each.state for each in check_reach(())] == [State.SKIP]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("https://router.example/path", ("router.example", 443)),
        ("http://[::1]:8000", ("::1", 8000)),
        ("http://x:99999", None),
        ("http://[::1", None),
        ("router:8000", None),
        ("", None),
    ],
)
def test_address_of_a_router_is_in_its_url(url: str, address: tuple[str, int] | None) -> None:
    assert router_address(url) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/ip4/10.0.0.5/tcp/4001/p2p/12D3", ("10.0.0.5", 4001)),
        ("/ip6/::1/tcp/4001", ("::1", 4001)),
        ("/dns4/router/tcp/4001/p2p/12D3", ("router", 4001)),
        ("/ip4/10.0.0.5/udp/4001/quic", None),
        ("/ip4/10.0.0.5/tcp/0", None),
        ("/ip4/10.0.0.5/tcp/70000", None),
        ("10.0.0.5:4001", None),
    ],
)
def test_address_of_the_mesh_is_a_host_and_a_tcp_port(
    text: str, address: tuple[str, int] | None
) -> None:
    assert mesh_address(text) == address


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("Thu, 26 Nov 2026 19:00:00 GMT", dt.datetime(2026, 11, 26, 19, tzinfo=dt.UTC)),
        ("Thu, 26 Nov 2026 19:00:00 -0000", None),
        ("Thu, 99 Nov 2026 19:00:00 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_time_of_a_router_is_its_date_header(header: str | None, told: dt.datetime | None) -> None:
    assert time_of(header) == told
