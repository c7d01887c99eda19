"""A member's life: when it says that it ends, how a new token renews it, and whether its status is believed."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from fleet_fakes import NullLog

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.identity import Identity
from capamesh.protocol.member_status import (
    MEMBERSHIP_ENDED,
    NOT_READY,
    NOT_RUNNING,
    READY,
    STALE_S,
    age_s,
    believable,
    verdict,
)
from capamesh.protocol.membership_life import Ended, Ends, Lasts, MembershipLife, life_ratio
from capamesh.protocol.membership_upkeep import MembershipUpkeep
from capamesh.protocol.network import JoinToken, Membership, NetworkOwner, RevocationList, Role
from capamesh.protocol.token_file import TokenFile

if TYPE_CHECKING:
    from pathlib import Path

NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)
DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
OWNER, OTHER = NetworkOwner.create("one", NOW), NetworkOwner.create("two", NOW)
NOTHING = RevocationList.empty(OWNER.network_id)


def token(
    lasts: dt.timedelta,
    owner: NetworkOwner = OWNER,
    role: Role = Role.NODE,
    now: dt.datetime = NOW,
) -> str:
    return owner.invite(role, expires_at=now + lasts, bootstrap=(), now=now).encode()


def life_of(
    lasts: dt.timedelta, now: dt.datetime = NOW, identity: Identity | None = None
) -> tuple[Membership, MembershipLife]:
    made = JoinToken.decode(token(lasts, now=now), now)
    mine = Membership.join(identity or Identity.generate(), made, now)
    return mine, MembershipLife(mine, mine.trust())


# its life


def test_end_of_a_month_is_reported_at_its_half_and_ever_more_often_in_its_last_days() -> None:
    _, life = life_of(30 * DAY)
    news = {hour: life.look(NOW + hour * HOUR) for hour in range(30 * 24 + 1)}
    at = {hour: each.left for hour, each in news.items() if isinstance(each, Ends)}
    assert list(at) == [360, 648, 672, 696, 708, 714, 717, 719, 720]
    assert [at[360], at[648], at[720]] == [15 * DAY, 3 * DAY, dt.timedelta(0)]
    ended = life.look(NOW + 30 * DAY + HOUR)
    assert isinstance(ended, Ended)
    assert (ended.state, ended.reason[:8]) == ("expired", "expired:")
    assert (life.look(NOW + 31 * DAY), life.ended) == (None, ended)


def test_part_of_a_life_that_is_left_is_told() -> None:
    _, life = life_of(30 * DAY)
    for days, ratio, stage in (
        (0, 1.0, "ample"),
        (15, 0.5, "half"),
        (27, 0.1, "tenth"),
        (60, -1.0, "tenth"),
    ):
        assert life.ratio(NOW + days * DAY) == pytest.approx(ratio)
        assert life.fields(NOW + days * DAY)["life_left"] == stage
    assert (life_ratio(NOW, NOW, NOW), life_ratio(NOW, NOW - DAY, NOW)) == (0.0, 0.0)


def test_end_is_said_as_the_clock_shows_it() -> None:
    # a clock that was ahead for a while costs no warning
    ahead = [(-40, None), (28, Ends(2 * DAY)), (1, Lasts()), (15, Ends(15 * DAY)), (31, Ended)]
    for looks in (
        [*ahead, (20, Lasts()), (20, Ends(10 * DAY))],
        # a member that starts late in its life warns at once
        [(20, Ends(10 * DAY)), (26, None), (27, Ends(3 * DAY))],
    ):
        _, life = life_of(30 * DAY)
        for days, news in looks:
            found = life.look(NOW + days * DAY)
            assert isinstance(found, Ended) if news is Ended else found == news


def test_renewed_membership_is_said_to_last_and_is_warned_of_in_its_own_time() -> None:
    mine, life = life_of(10 * DAY)
    now = NOW + 9 * DAY
    assert life.look(now) == Ends(DAY)
    longer, _ = life_of(10 * DAY, now, mine.identity)
    life.renewed(longer)
    news = [life.look(now + days * DAY) for days in (0, 0, 5, 8, 9)]
    assert news == [Lasts(), None, Ends(5 * DAY), None, Ends(DAY)]
    assert life.left(now) == 10 * DAY
    life = MembershipLife(mine, mine.trust())
    assert isinstance(life.look(NOW + 11 * DAY), Ended)
    life.renewed(longer)
    assert (life.look(NOW + 11 * DAY), life.ended) == (Lasts(), None)


def test_member_that_the_list_names_knows_that_it_is_revoked() -> None:
    mine, _ = life_of(DAY)
    trust = mine.trust()
    life = MembershipLife(mine, trust)
    first = OWNER.revoke(NOTHING, peers=[Identity.generate().peer_id], now=NOW)
    trust.update(first)
    assert life.look(NOW) is None
    trust.update(OWNER.revoke(first, peers=[mine.identity.peer_id], now=NOW))
    ended = life.look(NOW)
    assert isinstance(ended, Ended)
    assert (ended.state, ended.reason[:20]) == ("revoked", "revoked peer: node 1")
    assert life.look(NOW) is None
    assert life.fields(NOW) == {
        "expires_at": (NOW + DAY).isoformat(),
        "expires_in_s": 86400,
        "life_left": "none",
        "revocations_version": 2,
    }


# its upkeep


def put(path: Path, text: str) -> None:
    """Write a file as owners do: whole, by another file in its place."""
    other = path.with_name("new")
    other.write_text(text)
    other.replace(path)


class Member:
    """One that was started with a token file, or with its token alone."""

    def __init__(self, folder: Path, *, has_file: bool = True) -> None:
        self.file = folder / "token"
        self.log: Any = NullLog()
        self.home = DataDir(folder / "data", self.log)
        text = token(10 * DAY)
        self.file.write_text(text)
        self.first = self.home.membership(text, Role.NODE, NOW)
        self.trust = self.first.trust()
        self.refusal: Exception | None = None
        """Why a renewed membership cannot be shown yet."""
        self.renewed: list[Membership] = []
        self.upkeep = MembershipUpkeep(
            self.home,
            self.first,
            self.trust,
            token_file=TokenFile(self.file, text) if has_file else None,
            on_renewed=self._show,
            log=self.log,
        )

    def _show(self, membership: Membership) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.renewed.append(membership)

    def beats(self, *days: int) -> list[tuple[str, dict[str, Any]]]:
        """Beat on these days; return what is logged."""
        self.log.told.clear()
        for day in days:
            self.upkeep.beat(NOW + day * DAY)
        return list(self.log.told)

    def events(self, *days: int) -> list[str]:
        return [event for event, _ in self.beats(*days)]


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


def test_new_token_is_taken_once_it_can_be_shown_and_kept(member: Member) -> None:
    assert (member.events(0), member.renewed) == ([], [])
    put(member.file, token(20 * DAY))
    member.refusal = ConfigError("not now")
    assert member.events(0, 0, 0) == ["token_refused"]
    member.refusal = None
    assert member.events(0, 0, 0) == ["membership_renewed"]
    (renewed,) = member.renewed
    assert (renewed.identity, renewed.expires_at) == (member.first.identity, NOW + 20 * DAY)
    assert member.home.membership(None, Role.NODE, NOW) == renewed
    assert member.upkeep.figures(NOW) == (20 * 86400, 1.0)
    member.events(11)
    assert member.upkeep.ended is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("capamesh1junk", "cut short or mistyped"),
        ("", None),
        (token(DAY, OTHER), "admits to the network"),
        (token(DAY, role=Role.ROUTER), "the token admits a router, this is a node"),
        (token(DAY, now=NOW - 2 * DAY), "the join token expired"),
    ],
)
def test_token_that_cannot_be_taken_is_reported_once_and_changes_nothing(
    member: Member, text: str, said: str | None
) -> None:
    put(member.file, text)
    reported = member.beats(0, 0, 0)
    assert [event for event, _ in reported] == (["token_refused"] if said else [])
    assert all(said is not None and said in fields["error"] for _, fields in reported)
    assert member.renewed == []
    assert member.home.membership(None, Role.NODE, NOW) == member.first
    put(member.file, token(20 * DAY))
    assert member.events(0) == ["membership_renewed"]


def test_end_is_warned_of_reported_and_taken_back(member: Member, tmp_path: Path) -> None:
    ((event, fields),) = member.beats(8)
    assert (event, fields["left_s"], fields["life_ratio"]) == ("membership_ends", 2 * 86400, 0.2)
    what_to_do = "--token-file, which a newer `capamesh join` line does: it is taken as this runs"
    assert what_to_do in fields["what_to_do"]
    assert member.upkeep.look(NOW + 11 * DAY)
    assert not member.upkeep.look(NOW + 11 * DAY)
    assert member.log.told[-1][0] == "membership_expired"
    assert member.upkeep.ended is not None
    put(member.file, token(30 * DAY))
    assert member.events(11) == ["membership_renewed", "membership_lasts"]
    revoked = [member.first.identity.peer_id]
    member.trust.update(OWNER.revoke(NOTHING, peers=revoked, now=NOW))
    ((event, fields),) = member.beats(0)
    assert event == "membership_revoked"
    # by its id: no token readmits it
    assert f"remove its data folder {member.home.folder}" in fields["what_to_do"]
    assert member.upkeep.fields(NOW)["life_left"] == "none"
    ((_, fields),) = Member(tmp_path / "data", has_file=False).beats(9)
    assert "start it anew with a new token" in fields["what_to_do"]


def test_status_warns_of_the_end_until_the_membership_is_renewed_or_over(member: Member) -> None:
    def warning(days: int) -> str:
        now = NOW + days * DAY
        member.upkeep.beat(now)
        fields = member.upkeep.fields(now)
        assert fields["expires_in_s"] == member.upkeep.figures(now).left_s
        return str(fields["warning"])

    end = "of its membership's life is left: put a new token"
    assert warning(4) == ""
    assert warning(5).startswith(f"less than half {end}")
    assert warning(9).startswith(f"less than a tenth {end}")
    put(member.file, token(30 * DAY))
    assert (warning(9), warning(15)[:14]) == ("", "less than half")
    assert warning(31) == ""  # its state says more
    assert member.upkeep.ended is not None
    assert member.upkeep.ended.state == "expired"


def test_new_token_is_reported_until_it_is_settled_and_the_old_one_never(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("capamesh1old\n")
    file = TokenFile(path, "capamesh1old")
    assert file.new_token() == ""
    put(path, "capamesh1new\n")
    assert [file.new_token(), file.new_token()] == ["capamesh1new"] * 2
    file.settled()
    for content in ("capamesh1new\n", "capamesh1new\n\n", "x" * 100_000):
        put(path, content)
        assert file.new_token() == ""
    path.unlink()
    assert file.new_token() == ""
    put(path, "capamesh1old")
    assert file.new_token() == "capamesh1old"


# its status


def said(seconds_ago: float = 1.0, **fields: object) -> dict[str, Any]:
    return {
        "state": "ready",
        "is_running": True,
        "updated_at": (NOW - dt.timedelta(seconds=seconds_ago)).isoformat(),
        "expires_at": (NOW + DAY).isoformat(),
        **fields,
    }


@pytest.mark.parametrize(
    ("status", "state", "exit_status"),
    [
        (said(), "ready", READY),
        (said(STALE_S - 1), "ready", READY),
        (said(STALE_S + 1), "stale", NOT_RUNNING),
        (said(-STALE_S - 1), "stale", NOT_RUNNING),
        (said(updated_at=None), "stale", NOT_RUNNING),
        (said(updated_at="2027-03-01T12:00:00"), "stale", NOT_RUNNING),
        (said(is_running=False), "stopped", NOT_RUNNING),
        (said(state="waiting", reason="no router"), "waiting", NOT_READY),
        (said(state="draining"), "draining", NOT_READY),
        (said(state="revoked", reason="by list 3"), "revoked", MEMBERSHIP_ENDED),
        (said(state="expired", reason="over"), "expired", MEMBERSHIP_ENDED),
        (said(expires_at=(NOW - DAY).isoformat()), "expired", MEMBERSHIP_ENDED),
        ({"is_running": True}, "stale", NOT_RUNNING),
    ],
)
def test_member_is_ready_only_if_it_says_so_now(
    status: dict[str, Any], state: str, exit_status: int
) -> None:
    found = verdict(status, NOW)
    assert (found.state, found.exit_status) == (state, exit_status)
    assert bool(found.reason) == (state not in {"ready", "starting", "draining"})
    if state == "stale" and age_s(status, NOW) == STALE_S + 1:
        assert f"{STALE_S + 1:.0f} s ago" in found.reason


NODE = {
    "routers": 1,
    "links": 2,
    "sidecar_pid": 5,
    "worker_pids": [6],
    "workers": [{"device": 0, "pid": 6, "starts": 1}],
    "models": [
        {"name": "m", "state": "ready", "reason": "odd", "requests_in_flight": 3, "limit": 512}
    ],
}


def test_models_of_a_node_that_stopped_or_fell_silent_are_not_believed_to_be_ready() -> None:
    def believed(status: dict[str, Any]) -> dict[str, Any]:
        return dict(believable(status, verdict(status, NOW)))

    stopped = said(is_running=False, **NODE)
    assert believed(stopped) == {
        **stopped,
        "routers": 0,
        "links": 0,
        "sidecar_pid": None,
        "worker_pids": [],
        "workers": [{"device": 0, "pid": None, "starts": 1}],
        "models": [{"name": "m", "state": "stopped", "last_state": "ready", "reason": ""}],
    }
    stale = believed(said(90, **NODE))
    assert stale["models"][0]["state"] == "unknown"
    assert (stale["workers"], stale["links"]) == (NODE["workers"], 2)
    assert believed(said(**NODE)) == said(**NODE)
    router = said(is_running=False, nodes=3)
    assert believed(router) == {**router, "nodes": 0}
