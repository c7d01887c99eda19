"""When a member says that its membership ends, has ended, and is good again."""

from __future__ import annotations

import datetime as dt

import pytest

from capamesh.protocol.identity import Identity
from capamesh.protocol.membership_life import Ended, Ends, Lasts, MembershipLife, life_ratio
from capamesh.protocol.network import Membership, NetworkOwner, RevocationList, Role

NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)
DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
OWNER = NetworkOwner.create("home", NOW)


def member(
    lasts: dt.timedelta, now: dt.datetime = NOW, identity: Identity | None = None
) -> Membership:
    token = OWNER.invite(Role.NODE, expires_at=now + lasts, bootstrap=(), now=now)
    return Membership.join(identity or Identity.generate(), token, now)


def said(life: MembershipLife, until: dt.timedelta, step: dt.timedelta = HOUR) -> list[object]:
    """All that it says until then, with the hours at which it does."""
    return [
        (hour, news)
        for hour in range(int(until / step) + 1)
        if (news := life.look(NOW + hour * step)) is not None
    ]


def test_end_of_a_month_is_reported_at_its_half_daily_for_three_days_and_at_the_halves_of_the_last() -> (
    None
):
    mine = member(30 * DAY)
    life = MembershipLife(mine, mine.trust())
    at = [(hour, news.left) for hour, news in said(life, 30 * DAY) if isinstance(news, Ends)]
    assert [hour for hour, _ in at] == [360, 648, 672, 696, 708, 714, 717, 719, 720]
    assert [left for _, left in at[:2]] == [15 * DAY, 3 * DAY]
    assert at[-1][1] == dt.timedelta(0)
    ended = life.look(NOW + 30 * DAY + HOUR)
    assert isinstance(ended, Ended)
    assert (ended.state, ended.reason[:8]) == ("expired", "expired:")
    assert life.look(NOW + 31 * DAY) is None
    assert life.ended == ended


@pytest.mark.parametrize(
    ("age", "ratio", "stage"),
    [
        (dt.timedelta(0), 1.0, "ample"),
        (15 * DAY, 0.5, "half"),
        (27 * DAY, 0.1, "tenth"),
        (30 * DAY, 0.0, "tenth"),
        (60 * DAY, -1.0, "tenth"),
    ],
)
def test_part_of_a_life_that_is_left_is_told(age: dt.timedelta, ratio: float, stage: str) -> None:
    mine = member(30 * DAY)
    life = MembershipLife(mine, mine.trust())
    assert life.ratio(NOW + age) == pytest.approx(ratio)
    assert life.fields(NOW + age)["life_left"] == stage
    assert (life_ratio(NOW, NOW, NOW), life_ratio(NOW, NOW - DAY, NOW)) == (0.0, 0.0)


def test_clock_that_was_ahead_for_a_while_costs_no_warning() -> None:
    mine = member(30 * DAY)
    life = MembershipLife(mine, mine.trust())
    assert life.look(NOW - 40 * DAY) is None
    assert life.look(NOW + 28 * DAY) == Ends(2 * DAY)
    assert life.look(NOW + DAY) == Lasts()
    assert life.look(NOW + 15 * DAY) == Ends(15 * DAY)
    assert isinstance(life.look(NOW + 31 * DAY), Ended)
    assert life.look(NOW + 20 * DAY) == Lasts()
    assert life.look(NOW + 20 * DAY) == Ends(10 * DAY)


def test_renewed_membership_is_said_to_last_and_is_warned_of_in_its_own_time() -> None:
    mine = member(10 * DAY)
    life = MembershipLife(mine, mine.trust())
    now = NOW + 9 * DAY
    assert life.look(now) == Ends(DAY)
    longer = member(10 * DAY, now, mine.identity)
    life.renewed(longer)
    assert life.look(now) == Lasts()
    assert life.look(now) is None
    assert life.left(now) == 10 * DAY
    assert life.look(now + 5 * DAY) == Ends(5 * DAY)
    assert life.look(now + 8 * DAY) is None
    assert life.look(now + 9 * DAY) == Ends(DAY)
    life = MembershipLife(mine, mine.trust())
    assert isinstance(life.look(NOW + 11 * DAY), Ended)
    life.renewed(longer)
    assert life.look(NOW + 11 * DAY) == Lasts()
    assert life.ended is None


def test_member_that_the_list_names_knows_that_it_is_revoked() -> None:
    mine, other = member(DAY), member(DAY)
    trust = mine.trust()
    life = MembershipLife(mine, trust)
    first = OWNER.revoke(
        RevocationList.empty(OWNER.network_id), peers=[other.identity.peer_id], now=NOW
    )
    trust.update(first)
    assert life.look(NOW) is None
    trust.update(OWNER.revoke(first, peers=[mine.identity.peer_id], now=NOW))
    ended = life.look(NOW)
    assert isinstance(ended, Ended)
    assert ended.state == "revoked"
    assert ended.reason.startswith("revoked peer: node ")
    assert life.look(NOW) is None
    assert life.fields(NOW) == {
        "expires_at": (NOW + DAY).isoformat(),
        "expires_in_s": 86400,
        "life_left": "ample",
        "revocations_version": 2,
    }


def test_member_that_starts_late_in_its_life_warns_at_once() -> None:
    mine = member(30 * DAY)
    life = MembershipLife(mine, mine.trust())
    assert life.look(NOW + 20 * DAY) == Ends(10 * DAY)
    assert life.look(NOW + 26 * DAY) is None
    assert life.look(NOW + 27 * DAY) == Ends(3 * DAY)
