"""What an operator is told, once when it begins and once when it is over."""

from __future__ import annotations

from capamesh.protocol.invite_quotas import OverQuota
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
