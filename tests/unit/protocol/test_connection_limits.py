"""Which connections a port accepts, and which it closes for others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.connection_limits import (
    ConnectionLimiter,
    ConnectionLimits,
    Rate,
    Slot,
    address_key,
    limits_within,
)

ANY = Rate(1e9, 1e9)
FEW = ConnectionLimits(
    connections=6,
    unproven=4,
    unproven_of_address=2,
    of_strangers=ANY,
    of_address=ANY,
    of_known=ANY,
    of_known_address=ANY,
)


class Port:
    """A port, and what it closed."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limiter = ConnectionLimiter(limits)
        self.closed: list[str] = []

    def opened(self, name: str, host: str, now_s: float = 0.0) -> Slot:
        slot = self.limiter.opened(host, now_s)
        assert slot is not None
        slot.close = lambda _: self.closed.append(name)
        return slot


def test_longest_unproven_of_an_address_makes_room_for_the_next() -> None:
    port = Port(FEW)
    for name in "abcd":
        port.opened(name, "1.1.1.1")
    assert port.closed == ["a", "b"]
    port.opened("other", "2.2.2.2")
    assert port.closed == ["a", "b"]
    assert repr(port.limiter) == "ConnectionLimiter(3 open, 3 unproven)"
    assert port.limiter.displaced == 2


def test_members_are_never_closed_for_strangers_and_are_bounded_in_all() -> None:
    port = Port(FEW)
    members = [port.opened(f"member {number}", "1.1.1.1") for number in range(2)]
    for slot in members:
        port.limiter.proved(slot, 0.0)
    more = [port.opened(f"member {number}", "1.1.1.1") for number in range(2, 4)]
    for slot in more:
        port.limiter.proved(slot, 0.0)
    for number in range(10):
        port.opened(f"stranger {number}", f"2.2.2.{number}")
    assert port.closed == [f"stranger {number}" for number in range(8)]
    last = [port.opened(f"member {number}", "1.1.1.1") for number in range(4, 6)]
    for slot in last:
        port.limiter.proved(slot, 0.0)
    assert port.limiter.opened("1.1.1.1", 0.0) is None
    assert port.limiter.refused == 1
    port.limiter.closed(members[0])
    port.limiter.closed(members[0])
    assert port.limiter.opened("3.3.3.3", 0.0) is not None


def test_address_and_all_strangers_together_have_a_rate() -> None:
    limiter = ConnectionLimiter(ConnectionLimits(connections=10_000))

    def accepted(hosts: list[str], now_s: float) -> int:
        count = 0
        for host in hosts:
            slot = limiter.opened(host, now_s)
            if slot is not None:
                count += 1
                limiter.closed(slot)
        return count

    assert accepted(["1.1.1.1"] * 1000, 0.0) == 64
    assert accepted([f"2.2.{n // 250}.{n % 250}" for n in range(1000)], 0.0) == 200 - 64
    assert accepted(["1.1.1.1"] * 1000, 1.0) == 20
    assert accepted([f"2.2.{n // 250}.{n % 250}" for n in range(1000)], 1.0) == 100 - 20


def test_addresses_of_members_come_in_while_strangers_use_up_their_rate() -> None:
    limiter = ConnectionLimiter(ConnectionLimits(connections=10_000, unproven_of_address=1000))
    member = limiter.opened("9.9.9.9", 0.0)
    assert member is not None
    limiter.proved(member, 0.0)
    while limiter.opened("1.1.1.1", 1.0) or limiter.opened("1.1.1.2", 1.0):
        pass
    for number in range(1000):
        limiter.opened(f"2.2.{number // 250}.{number % 250}", 1.0)
    assert limiter.opened("3.3.3.3", 1.0) is None
    assert sum(limiter.opened("9.9.9.9", 1.0) is not None for _ in range(300)) >= 64
    assert limiter.opened("9.9.9.9", 3602.0) is not None  # a stranger again, and there is time


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_ipv6_host_counts_by_the_network_that_it_is_given(host: str, key: str) -> None:
    assert address_key(host) == key


@pytest.mark.parametrize(
    ("descriptors", "expected"),
    [(256, (32, 16, 8)), (1024, (128, 64, 32)), (65_536, (4096, 128, 32)), (4, (2, 1, 1))],
)
def test_limits_follow_what_the_process_may_have(
    descriptors: int, expected: tuple[int, int, int]
) -> None:
    limits = limits_within(descriptors)
    assert (limits.connections, limits.unproven, limits.unproven_of_address) == expected


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(["open", "prove", "close"]), st.integers(0, 9)
        ),
        max_size=120,
    )
)
def test_counts_are_what_is_open_and_never_over_the_limits(
    steps: list[tuple[int, str, int]],
) -> None:
    port = Port(FEW)
    gone: set[Slot] = set()
    slots: list[Slot] = []
    proven: set[Slot] = set()
    for host, what, which in steps:
        if what == "open":
            slot = port.limiter.opened(f"1.1.1.{host}", 0.0)
            if slot is not None:
                slot.close = lambda _, slot=slot: gone.add(slot)  # type: ignore[misc]  # bound now
                slots.append(slot)
        elif slots:
            slot = slots[which % len(slots)]
            if what == "close":
                port.limiter.closed(slot)
                gone.add(slot)
            elif slot not in gone:
                port.limiter.proved(slot, 0.0)
                proven.add(slot)
        alive = set(slots) - gone
        unproven = alive - proven
        assert not gone & proven - {slot for slot in gone if slot.is_closed}
        assert len(alive) <= 6
        assert len(unproven) <= 4
        assert repr(port.limiter) == (
            f"ConnectionLimiter({len(alive)} open, {len(unproven)} unproven)"
        )


def test_longest_unproven_of_all_makes_room_when_strangers_have_many_addresses() -> None:
    port = Port(FEW)
    for number in range(10):
        port.opened(str(number), f"1.1.1.{number}")
    assert port.closed == ["0", "1", "2", "3", "4", "5"]
