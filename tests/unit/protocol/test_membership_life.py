"""When a member says that its membership ends, has ended, and is good again."""

from __future__ import annotations

import datetime as dt

from capamesh.protocol.identity import Identity
from capamesh.protocol.membership_life import Ended, Ends, Lasts, MembershipLife
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


def test_end_of_a_month_is_reported_daily_for_six_days_and_at_the_halves_of_the_last() -> None:
    mine = member(30 * DAY)
    life = MembershipLife(mine, mine.trust())
    at = [(hour, news.left) for hour, news in said(life, 30 * DAY) if isinstance(news, Ends)]
    assert [hour for hour, _ in at] == [576, 600, 624, 648, 672, 696, 708, 714, 717, 719, 720]
    assert at[0][1] == 6 * DAY
    assert at[-1][1] == dt.timedelta(0)
    ended = life.look(NOW + 30 * DAY + HOUR)
    assert isinstance(ended, Ended)
    assert (ended.state, ended.reason[:8]) == ("expired", "expired:")
    assert life.look(NOW + 31 * DAY) is None
    assert life.ended == ended


def test_membership_of_a_minute_is_warned_of_once() -> None:
    mine = member(dt.timedelta(seconds=75))
    life = MembershipLife(mine, mine.trust())
    seconds = said(life, dt.timedelta(seconds=80), dt.timedelta(seconds=1))
    assert [(second, type(news)) for second, news in seconds] == [
        (60, Ends),
        (75, Ends),
        (76, Ended),
    ]


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
    assert life.look(now + 8 * DAY) == Ends(2 * DAY)
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
        "revocations_version": 2,
    }


def test_member_of_a_retired_key_is_out_until_it_has_a_token_of_the_new_one() -> None:
    mine = member(DAY)
    trust = mine.trust()
    life = MembershipLife(mine, trust)
    later = OWNER.rotated(NOW)
    trust.update(later.revoke(RevocationList.empty(OWNER.network_id), is_retiring=True, now=NOW))
    ended = life.look(NOW)
    assert isinstance(ended, Ended)
    assert (ended.state, ended.reason[:17]) == ("revoked", "retired owner key")
    token = later.invite(Role.NODE, expires_at=NOW + DAY, bootstrap=(), now=NOW)
    life.renewed(Membership.join(mine.identity, token, NOW))
    assert life.look(NOW) == Lasts()


def test_clock_that_is_behind_ends_no_membership() -> None:
    mine = member(DAY)
    assert MembershipLife(mine, mine.trust()).look(NOW - 40 * DAY) is None
