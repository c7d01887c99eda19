"""How much of a process strangers and the members of an invite may take."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.bulk_deaths import MOST, WITHIN_S, BulkDeaths
from capamesh.protocol.connection_limits import (
    ConnectionLimiter,
    ConnectionLimits,
    Rate,
    Slot,
    address_key,
)
from capamesh.protocol.ids import PeerId
from capamesh.protocol.invite_quotas import (
    BYTES_OF_MEMBER,
    MAX_REFUSED,
    InviteQuotas,
    OverQuota,
)
from capamesh.protocol.network import Member, Role

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

    def __init__(self) -> None:
        self.limiter = ConnectionLimiter(FEW)
        self.closed: list[str] = []

    def opened(self, name: str, host: str, *, is_member: bool = False) -> Slot:
        slot = self.limiter.opened(host, 0.0)
        assert slot is not None
        slot.close = lambda _: self.closed.append(name)
        if is_member:
            self.limiter.proved(slot, 0.0)
        return slot


def test_longest_unproven_of_an_address_or_of_all_makes_room_for_the_next() -> None:
    port = Port()
    for name in "abcd":
        port.opened(name, "1.1.1.1")
    assert port.closed == ["a", "b"]
    port.opened("other", "2.2.2.2")
    assert port.closed == ["a", "b"]
    assert repr(port.limiter) == "ConnectionLimiter(3 open, 3 unproven)"
    assert port.limiter.displaced == 2
    port = Port()
    for number in range(10):
        port.opened(str(number), f"1.1.1.{number}")
    assert port.closed == ["0", "1", "2", "3", "4", "5"]


def test_members_are_never_closed_for_strangers_and_are_bounded_in_all() -> None:
    port = Port()
    first, *_ = [port.opened(f"{number}", "1.1.1.1", is_member=True) for number in range(4)]
    for number in range(10):
        port.opened(f"stranger {number}", f"2.2.2.{number}")
    assert port.closed == [f"stranger {number}" for number in range(8)]
    for number in range(2):
        port.opened(f"late {number}", "1.1.1.1", is_member=True)
    assert port.limiter.opened("1.1.1.1", 0.0) is None
    assert port.limiter.refused == 1
    for _ in range(2):
        port.limiter.closed(first)
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


def test_ipv6_host_counts_by_the_network_that_it_is_given() -> None:
    keys = {
        "::ffff:1.2.3.4": "1.2.3.4",
        "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
        "fe80::1%eth0": "fe80::/64",
        "": "",
    }
    assert {host: address_key(host) for host in keys} == keys


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
    port = Port()
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


SINCE, LATER = datetime(2029, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


def member(peer: str, invite: str = "i", members: int = 2) -> Member:
    return Member(PeerId(peer), Role.NODE, invite, SINCE, LATER, members)


def test_first_that_come_have_the_places_and_keep_them() -> None:
    quotas = InviteQuotas()
    for peer in "ab":
        assert quotas.refusal(member(peer), 1000) == ""
        quotas.keep(member(peer), 1000)
    assert quotas.refusal(member("c"), 1) == "its invite i admits 2 members, and all have come"
    assert quotas.refusal(member("a"), 2000) == ""
    assert quotas.refusal(member("c", invite="j"), 1000) == ""
    assert quotas.over() == [OverQuota("i", 2, 2, 2000, 1)]
    quotas.left(PeerId("a"))
    assert quotas.refusal(member("c"), 1000) == ""
    quotas.keep(member("c"), 1000)
    assert quotas.over() == []
    assert repr(quotas) == "InviteQuotas(2 members of 1 invites)"
    for number in range(3000):
        assert quotas.refusal(member(f"fake {number}")) != ""
    assert quotas.over() == [OverQuota("i", 2, 2, 2000, MAX_REFUSED)]


def test_members_of_an_invite_share_what_is_for_them() -> None:
    quotas = InviteQuotas()
    quotas.keep(member("a"), 2 * BYTES_OF_MEMBER - 1000)
    assert quotas.refusal(member("b"), 1000) == ""
    assert quotas.refusal(member("b"), 1001) == (
        f"the members of its invite i would take {2 * BYTES_OF_MEMBER + 1} bytes with it; {2 * BYTES_OF_MEMBER} are for "
        "them: advertise fewer models, or ask the owner for an invite of more members"
    )
    assert quotas.refusal(member("a"), 2 * BYTES_OF_MEMBER) == ""  # in place of what it has
    assert quotas.refusal(member("b", invite="j"), 2 * BYTES_OF_MEMBER) == ""
    assert quotas.refusal(member("c", invite="k", members=1), BYTES_OF_MEMBER + 1) != ""
    assert quotas.over() == [
        OverQuota("i", 2, 1, 2 * BYTES_OF_MEMBER - 1000, 1),
        OverQuota("k", 1, 0, 0, 1),
    ]
    assert quotas.invite_of(PeerId("c")) == ""


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"), st.sampled_from("ij"), st.integers(0, BYTES_OF_MEMBER)
        ),
        max_size=60,
    )
)
def test_no_invite_ever_has_more_than_its_members_and_its_bytes(
    steps: list[tuple[str, str, int]],
) -> None:
    quotas = InviteQuotas()
    costs: dict[str, dict[str, int]] = {"i": {}, "j": {}}
    for peer, invite, cost in steps:
        one = member(peer, invite, members=3)
        if cost % 7 == 0:
            quotas.left(one.peer_id)
            for of_invite in costs.values():
                of_invite.pop(peer, None)
        elif not quotas.refusal(one, cost):
            quotas.keep(one, cost)
            for of_invite in costs.values():
                of_invite.pop(peer, None)
            costs[invite][peer] = cost
        for of_invite in costs.values():
            assert len(of_invite) <= 3
            assert sum(of_invite.values()) <= 3 * BYTES_OF_MEMBER
    assert len(quotas) == sum(map(len, costs.values()))


def test_ends_are_put_down_to_bulk_requests_up_to_a_number_and_then_to_none_for_a_while() -> None:
    deaths = BulkDeaths()
    assert [deaths.excuse(float(at)) for at in range(MOST + 1)] == [True] * MOST + [False]
    assert deaths.left_s(float(MOST)) == WITHIN_S - MOST
    later_s = [WITHIN_S - 0.001, WITHIN_S, WITHIN_S + 0.5, WITHIN_S + 1.0]
    assert [deaths.excuse(at_s) for at_s in later_s] == [False, True, False, True]


@given(st.lists(st.floats(0.0, 2 * WITHIN_S)))
def test_no_more_are_in_any_such_time(times_s: list[float]) -> None:
    deaths = BulkDeaths()
    excused = [now_s for now_s in sorted(times_s) if deaths.excuse(now_s)]
    for first_s, later_s in zip(excused, excused[MOST:], strict=False):
        assert later_s >= first_s + WITHIN_S
    assert len(deaths._times_s) <= MOST
