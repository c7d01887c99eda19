"""A running member's upkeep: new tokens are taken from their file, and everything is said once."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from capamesh.protocol.data_dir import DataDir
from capamesh.protocol.errors import ConfigError
from capamesh.protocol.membership_upkeep import MembershipUpkeep
from capamesh.protocol.network import Membership, NetworkOwner, RevocationList, Role
from capamesh.protocol.token_file import TokenFile

NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
OWNER, OTHER = NetworkOwner.create("one", NOW), NetworkOwner.create("two", NOW)


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.events.append((event, fields))

    def names(self) -> list[str]:
        found = [event for event, _ in self.events]
        self.events.clear()
        return found


class Member:
    """One that was started with a token file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "token"
        self.log: Any = Log()
        self.home = DataDir(folder / "data", self.log)
        text = token(10 * DAY)
        self.file.write_text(text)
        self.first = self.home.membership(text, Role.NODE, NOW)
        self.trust = self.first.trust()
        self.renewed: list[Membership] = []
        self.upkeep = MembershipUpkeep(
            self.home,
            self.first,
            self.trust,
            token_file=TokenFile(self.file, text),
            on_renewed=self.renewed.append,
            log=self.log,
        )

    def put(self, text: str) -> None:
        new = self.file.with_name("new")
        new.write_text(text)
        new.replace(self.file)


def token(lasts: dt.timedelta, owner: NetworkOwner = OWNER, role: Role = Role.NODE) -> str:
    return owner.invite(role, expires_at=NOW + lasts, bootstrap=(), now=NOW).encode()


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


def test_new_token_is_taken_once_and_kept(member: Member) -> None:
    member.upkeep.beat(NOW)
    assert (member.log.names(), member.renewed) == ([], [])
    member.put(token(20 * DAY))
    for _ in range(3):
        member.upkeep.beat(NOW)
    assert member.log.names() == ["membership_renewed"]
    (renewed,) = member.renewed
    assert renewed.identity == member.first.identity
    assert renewed.expires_at == NOW + 20 * DAY
    assert member.home.membership(None, Role.NODE, NOW) == renewed
    assert member.upkeep.figures(NOW) == (20 * 86400, 1.0)
    member.upkeep.beat(NOW + 11 * DAY)
    assert member.upkeep.ended is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("capamesh1junk", "cut short or mistyped"),
        ("", None),
        (token(DAY, OTHER), "admits to the network"),
        (token(DAY, role=Role.ROUTER), "the token admits a router, this is a node"),
        (
            OWNER.invite(Role.NODE, expires_at=NOW - DAY, bootstrap=(), now=NOW - 2 * DAY).encode(),
            "the join token expired",
        ),
    ],
)
def test_token_that_cannot_be_taken_is_reported_once_and_changes_nothing(
    member: Member, text: str, said: str | None
) -> None:
    member.put(text)
    for _ in range(3):
        member.upkeep.beat(NOW)
    reported = list(member.log.events)
    assert [event for event, _ in reported] == (["token_refused"] if said else [])
    if said:
        assert said in reported[0][1]["error"]
    assert member.renewed == []
    assert member.home.membership(None, Role.NODE, NOW) == member.first
    member.log.events.clear()
    member.put(token(20 * DAY))
    member.upkeep.beat(NOW)
    assert member.log.names() == ["membership_renewed"]


def test_list_that_cannot_be_shown_yet_is_tried_again(member: Member) -> None:
    fails = True
    shown: list[Membership] = []

    def show(membership: Membership) -> None:
        if fails:
            raise ConfigError("not now")
        shown.append(membership)

    member.upkeep = MembershipUpkeep(
        member.home,
        member.first,
        member.trust,
        token_file=TokenFile(member.file, member.file.read_text()),
        on_renewed=show,
        log=member.log,
    )
    member.put(token(20 * DAY))
    for _ in range(3):
        member.upkeep.beat(NOW)
    assert member.log.names() == ["token_refused"]
    fails = False
    member.upkeep.beat(NOW)
    assert member.log.names() == ["membership_renewed"]
    assert len(shown) == 1


def test_end_is_warned_of_reported_and_taken_back(member: Member) -> None:
    member.upkeep.beat(NOW + 8 * DAY)
    ((event, fields),) = member.log.events
    assert (event, fields["left_s"], fields["life_ratio"]) == ("membership_ends", 2 * 86400, 0.2)
    assert (
        "--token-file, which a newer `capamesh join` line does: it is taken as this runs"
        in fields["what_to_do"]
    )
    member.log.events.clear()
    assert member.upkeep.look(NOW + 11 * DAY)
    assert not member.upkeep.look(NOW + 11 * DAY)
    assert member.log.names() == ["membership_expired"]
    assert member.upkeep.ended is not None
    member.put(token(30 * DAY))
    member.upkeep.beat(NOW + 11 * DAY)
    assert member.log.names() == ["membership_renewed", "membership_lasts"]
    member.trust.update(
        OWNER.revoke(
            RevocationList.empty(OWNER.network_id), peers=[member.first.identity.peer_id], now=NOW
        )
    )
    member.upkeep.beat(NOW)
    assert member.log.names() == ["membership_revoked"]


def test_status_warns_of_the_end_until_the_membership_is_renewed_or_over(member: Member) -> None:
    def warning(days: int) -> str:
        now = NOW + days * DAY
        member.upkeep.beat(now)
        fields = member.upkeep.fields(now)
        assert fields["expires_in_s"] == (member.upkeep.figures(now).left_s)
        return str(fields["warning"])

    assert warning(4) == ""
    assert warning(5).startswith("less than half of its membership's life is left: put a new token")
    assert warning(9).startswith("less than a tenth of its membership's life is left: put")
    member.put(token(30 * DAY))
    assert warning(9) == ""
    assert warning(15).startswith("less than half")
    assert warning(31) == ""  # its state says more
    ended = member.upkeep.ended
    assert ended is not None
    assert ended.state == "expired"


def test_error_without_a_token_file_says_how_to_have_one(tmp_path: Path) -> None:
    log: Any = Log()
    home = DataDir(tmp_path, log)
    mine = home.membership(token(10 * DAY), Role.NODE, NOW)
    upkeep = MembershipUpkeep(
        home, mine, mine.trust(), token_file=None, on_renewed=lambda _: None, log=log
    )
    upkeep.beat(NOW + 9 * DAY)
    assert "start it anew with a new token" in log.events[0][1]["what_to_do"]
