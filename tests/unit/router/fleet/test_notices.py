"""What an operator is told, once when it begins and once when it is over."""

from __future__ import annotations

from capamesh.protocol.invite_quotas import OverQuota
from capamesh.protocol.network_clock import Skew
from capamesh.router.fleet.notices import Notices

OVER = OverQuota("i", 64, 64, 1000, 5)


def test_invite_over_its_quota_is_reported_once_until_it_is_so_again() -> None:
    notices = Notices()
    (reported,) = notices.about([OVER], None)
    assert reported.event == "invite_over_quota"
    assert reported.fields == {
        "invite": "i",
        "admits": 64,
        "members": 64,
        "used_bytes": 1000,
        "refused": 5,
    }
    assert notices.about([OVER], None) == []
    assert notices.about([], None) == []
    assert len(notices.about([OVER], None)) == 1


def test_wrong_clock_is_reported_once_and_so_is_a_right_one() -> None:
    notices = Notices()
    assert notices.about([], Skew(3.0, 3)) == []
    (reported,) = notices.about([], Skew(1200.0, 3))
    assert (reported.event, reported.is_good) == ("clock_is_wrong", False)
    assert reported.fields == {
        "peers_ahead_s": 1200.0,
        "peers": 3,
        "problem": "all peers' clocks are 1200 s ahead of this machine's: this machine's clock is wrong",
    }
    assert notices.about([], Skew(1201.0, 3)) == []
    (reported,) = notices.about([], Skew(-1200.0, 3))
    assert reported.fields["peers_ahead_s"] == -1200.0
    (reported,) = notices.about([], Skew(0.2, 3))
    assert (reported.event, reported.is_good) == ("clock_is_right", True)
    assert reported.fields == {"peers_ahead_s": 0.2, "peers": 3, "problem": ""}
