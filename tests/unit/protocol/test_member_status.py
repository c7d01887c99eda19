"""Whether a member is believed to be ready."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from capamesh.protocol.member_status import (
    MEMBERSHIP_ENDED,
    NOT_READY,
    NOT_RUNNING,
    READY,
    STALE_S,
    verdict,
)

NOW = dt.datetime(2027, 3, 1, 12, tzinfo=dt.UTC)


def said(seconds_ago: float = 1.0, **fields: object) -> dict[str, Any]:
    return {
        "state": "ready",
        "is_running": True,
        "updated_at": (NOW - dt.timedelta(seconds=seconds_ago)).isoformat(),
        "expires_at": (NOW + dt.timedelta(days=1)).isoformat(),
        **fields,
    }


@pytest.mark.parametrize(
    ("status", "state", "exit_status"),
    [
        (said(), "ready", READY),
        (said(STALE_S - 1), "ready", READY),
        (said(-3), "ready", READY),  # the clock was set back a little
        (said(STALE_S + 1), "stale", NOT_RUNNING),
        (said(-STALE_S - 1), "stale", NOT_RUNNING),
        (said(updated_at=None), "stale", NOT_RUNNING),
        (said(updated_at="soon"), "stale", NOT_RUNNING),
        (said(updated_at="2027-03-01T12:00:00"), "stale", NOT_RUNNING),
        (said(is_running=False), "stopped", NOT_RUNNING),
        (said(state="waiting", reason="no router"), "waiting", NOT_READY),
        (said(state="starting"), "starting", NOT_READY),
        (said(state="draining"), "draining", NOT_READY),
        (said(state="revoked", reason="by list 3"), "revoked", MEMBERSHIP_ENDED),
        (said(state="expired", reason="over"), "expired", MEMBERSHIP_ENDED),
        (said(expires_at=(NOW - dt.timedelta(1)).isoformat()), "expired", MEMBERSHIP_ENDED),
        (
            said(is_running=False, expires_at=(NOW - dt.timedelta(1)).isoformat()),
            "expired",
            MEMBERSHIP_ENDED,
        ),
        ({"is_running": True}, "stale", NOT_RUNNING),
    ],
)
def test_member_is_ready_only_if_it_says_so_now(
    status: dict[str, Any], state: str, exit_status: int
) -> None:
    found = verdict(status, NOW)
    assert (found.state, found.exit_status) == (state, exit_status)
    assert bool(found.reason) == (state not in {"ready", "starting", "draining"})


def test_reason_says_how_old_the_status_is() -> None:
    assert verdict(said(90), NOW).reason == (
        "it last said that it was ready, 90 s ago, and says so every 5 s: it is frozen, or cannot write its folder"
    )
