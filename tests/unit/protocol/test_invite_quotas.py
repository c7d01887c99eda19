"""How much of a router the members of one invite may take, and who keeps a place."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from capamesh.protocol.ids import PeerId
from capamesh.protocol.invite_quotas import (
    BYTES_OF_MEMBER,
    MAX_REFUSED,
    InviteQuotas,
    OverQuota,
    advert_bytes,
)
from capamesh.protocol.network import Member, Role

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


def test_endless_identities_are_counted_only_up_to_a_bound() -> None:
    quotas = InviteQuotas()
    for peer in "ab":
        quotas.keep(member(peer), 0)
    for number in range(3000):
        assert quotas.refusal(member(f"fake {number}")) != ""
    assert quotas.over() == [OverQuota("i", 2, 2, 0, MAX_REFUSED)]


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


def test_membership_of_who_has_a_place_is_known_until_it_leaves() -> None:
    quotas = InviteQuotas()
    assert quotas.member_of(PeerId("a")) is None
    quotas.keep(member("a"), 1)
    assert quotas.member_of(PeerId("a")) == member("a")
    quotas.keep(member("a", invite="j"), 1)
    assert quotas.member_of(PeerId("a")) == member("a", invite="j")
    assert quotas.refusal(member("b", members=1)) == ""  # its place with the first invite is free
    quotas.left(PeerId("a"))
    assert quotas.member_of(PeerId("a")) is None


def test_advert_costs_its_bytes_and_its_hosts() -> None:
    assert advert_bytes(3357, 5) == 8 * 3357 + 5 * 1100
