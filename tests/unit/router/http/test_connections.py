"""Too many connections or handshakes: who has to wait, and who is closed for whom."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from typing_extensions import override

from capamesh.protocol.errors import ConfigError
from capamesh.router.http.connections import LINE_UP_S, Connections, site_of
from capamesh.router.http.handshakes import (
    A_SECOND,
    AT_ONCE,
    DAWDLES_AFTER_S,
    Handshake,
    Handshakes,
)
from capamesh.router.http.limits import limits_of, memory_bytes, networks_of


@dataclass(eq=False)
class One:
    site: str
    used_s: float = 0.0
    is_dispensable: bool = True
    is_closed: bool = False

    def hang_up(self) -> None:
        self.is_closed = True


def test_longest_idle_is_closed_for_a_new_one() -> None:
    connections = Connections(3, 3)
    early, late = One("1.0.0.1", 5), One("1.0.0.2", 7)
    busy = One("1.0.0.3", 1, is_dispensable=False)
    assert all(connections.opened(each, 10) for each in (early, late, busy))
    assert connections.opened(One("1.0.0.4", 10), 10)
    assert (early.is_closed, late.is_closed, busy.is_closed) == (True, False, False)
    assert (len(connections), connections.hung_up, connections.turned_away) == (3, 1, 0)


def test_connection_with_a_request_under_way_is_never_closed() -> None:
    connections = Connections(2, 2)
    busy = [One(f"1.0.0.{n}", is_dispensable=False) for n in range(2)]
    assert all(connections.opened(each, 1) for each in busy)
    new = One("1.0.0.9")
    assert not connections.opened(new, 1)
    connections.closed(new)  # its transport ends, too
    assert (len(connections), connections.turned_away) == (2, 1)
    busy[0].is_dispensable = True
    assert not connections.opened(One("1.0.0.9"), 1)
    assert connections.opened(One("1.0.0.9"), 1 + LINE_UP_S)  # as soon as it is looked again


def test_address_over_its_share_closes_its_own() -> None:
    connections = Connections(10, 2)
    other = One("2.0.0.1", 0)
    assert connections.opened(other, 1)
    mine = [One("1.0.0.1", n) for n in range(3)]
    assert all(connections.opened(each, 5) for each in mine)
    assert [each.is_closed for each in (*mine, other)] == [True, False, False, False]


@pytest.mark.parametrize("site", ["127.0.0.1", "::1", "10.1.2.3", ""])
def test_loopback_and_trusted_proxies_may_have_all(site: str) -> None:
    connections = Connections(10, 2, networks_of(("10.0.0.0/8", "fd00::7")))
    mine = [One(site_of(site), n) for n in range(10)]
    assert all(connections.opened(each, 5) for each in mine)
    assert not any(each.is_closed for each in mine)
    with pytest.raises(ConfigError, match="--trusted-proxy 'proxy' is no address"):
        networks_of(("proxy",))


def test_ipv6_house_is_one_address() -> None:
    assert site_of("2001:db8:1:2::7") == site_of("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    assert site_of("2001:db8:1:3::7") != site_of("2001:db8:1:2::7")
    assert site_of("::ffff:1.2.3.4") == site_of("1.2.3.4") == "1.2.3.4"
    assert site_of("fe80::1%eth0") == "fe80::/64"
    assert site_of("") == ""


def test_limits_come_of_the_machine_unless_they_are_given() -> None:
    mib = 2**20
    given = limits_of(64 * mib, body_bytes=300 * mib, connections=100, connections_per_site=200)
    assert (given.body_bytes, given.arriving_bytes) == (300 * mib, 64 * mib)
    assert (given.connections, given.connections_per_site) == (100, 100)
    small = limits_of(64 * mib, body_bytes=mib)
    assert (small.body_bytes, small.arriving_bytes) == (128 * mib, 64 * mib)
    assert small.connections_per_site == small.connections // 2


def test_container_s_memory_is_what_there_is(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("root")
    machine = memory_bytes(root)
    group = root / "sys/fs/cgroup/system.slice/router.service"
    group.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/system.slice/router.service\n")
    (group / "memory.max").write_text("max\n")
    assert memory_bytes(root) == machine
    (group.parent / "memory.max").write_text(f"{2**29}\n")
    assert memory_bytes(root) == 2**29
    (root / "sys/fs/cgroup/memory/a").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory/a/memory.limit_in_bytes").write_text(f"{2**28}\n")
    (root / "proc/self/cgroup").write_text("9:cpu,memory:/a\n")
    assert memory_bytes(root) == 2**28


@dataclass(eq=False)
class Begun(Handshake):
    site: str
    begun_s: float
    is_given_up: bool = False

    @override
    def give_up(self) -> None:
        self.is_given_up = True


def begin(handshakes: Handshakes, site: str, now_s: float) -> Begun | None:
    begun = Begun(site, now_s)
    return begun if handshakes.has_room(now_s) and handshakes.begin(begun, now_s) else None


def test_handshake_waits_while_all_places_are_taken_by_those_that_do_not_dawdle() -> None:
    handshakes = Handshakes(lambda _: False, most=3, most_of_site=3)
    begun = [begin(handshakes, site, 0.0) for site in ("a", "b", "b")]
    assert not handshakes.has_room(0.9)
    assert handshakes.has_room(DAWDLES_AFTER_S)
    assert [each is not None and each.is_given_up for each in begun] == [False, True, False]


def test_site_begins_at_a_rate_that_time_gives_back() -> None:
    handshakes = Handshakes(lambda _: False, most=10_000, most_of_site=10_000)
    taken = [begin(handshakes, "a", 0.0) for _ in range(int(AT_ONCE) + 5)]
    assert [each is None for each in taken] == [False] * int(AT_ONCE) + [True] * 5
    assert begin(handshakes, "b", 0.0) is not None
    a_while_s = 3 / A_SECOND
    later = [begin(handshakes, "a", a_while_s) for _ in range(5)]
    assert [each is None for each in later] == [False] * 3 + [True] * 2


def test_trusted_site_has_neither_a_share_nor_a_rate() -> None:
    handshakes = Handshakes(lambda site: site == "proxy", most=1000, most_of_site=1)
    assert all(begin(handshakes, "proxy", 0.0) for _ in range(1000))
    assert not handshakes.has_room(0.0)
