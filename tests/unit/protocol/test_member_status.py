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
    believable,
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
        (said(STALE_S + 1), "stale", NOT_RUNNING),
        (said(-STALE_S - 1), "stale", NOT_RUNNING),
        (said(updated_at=None), "stale", NOT_RUNNING),
        (said(updated_at="2027-03-01T12:00:00"), "stale", NOT_RUNNING),
        (said(is_running=False), "stopped", NOT_RUNNING),
        (said(state="waiting", reason="no router"), "waiting", NOT_READY),
        (said(state="draining"), "draining", NOT_READY),
        (said(state="revoked", reason="by list 3"), "revoked", MEMBERSHIP_ENDED),
        (said(state="expired", reason="over"), "expired", MEMBERSHIP_ENDED),
        (said(expires_at=(NOW - dt.timedelta(1)).isoformat()), "expired", MEMBERSHIP_ENDED),
        ({"is_running": True}, "stale", NOT_RUNNING),
    ],
)
def test_member_is_ready_only_if_it_says_so_now(
    status: dict[str, Any], state: str, exit_status: int
) -> None:
    found = verdict(status, NOW)
    assert (found.state, found.exit_status) == (state, exit_status)
    assert bool(found.reason) == (state not in {"ready", "starting", "draining"})


NODE = {
    "routers": 1,
    "links": 2,
    "sidecar_pid": 5,
    "worker_pids": [6],
    "workers": [{"device": 0, "pid": 6, "starts": 1}],
    "models": [
        {
            "name": "m",
            "state": "ready",
            "reason": "odd",
            "requests_in_flight": 3,
            "limit": 512,
            "rows": 9,
        }
    ],
}


def test_stopped_node_has_no_ready_model_and_no_router() -> None:
    status = said(is_running=False, **NODE)
    believed = believable(status, verdict(status, NOW))
    assert believed == {
        **status,
        "routers": 0,
        "links": 0,
        "sidecar_pid": None,
        "worker_pids": [],
        "workers": [{"device": 0, "pid": None, "starts": 1}],
        "models": [
            {"name": "m", "state": "stopped", "last_state": "ready", "reason": "", "rows": 9}
        ],
    }


def test_model_of_a_node_whose_status_is_stale_is_not_known_to_be_ready() -> None:
    status = said(90, **NODE)
    believed = believable(status, verdict(status, NOW))
    assert believed["models"][0]["state"] == "unknown"
    assert believed["workers"] == NODE["workers"]
    assert believed["links"] == 2
    status = said(**NODE)
    assert believable(status, verdict(status, NOW)) == status
    status = said(is_running=False, nodes=3)  # of a router
    assert believable(status, verdict(status, NOW)) == {**status, "nodes": 0}
