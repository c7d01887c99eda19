from __future__ import annotations

from typing import Any

from fleet_members import EventLog

from capamesh.protocol.serving_notice import ServingNotice


def test_notice_is_logged_once_for_each_change() -> None:
    log: Any = EventLog()
    notice = ServingNotice(log, lambda: {"nodes": 2})
    notice.look("starting", "its mesh is not up yet")
    notice.look("waiting", "no node has been heard of")
    assert log.events == []
    notice.look("ready", "")
    notice.look("ready", "")
    assert log.events == [("serving", {"nodes": 2})]
    notice.look("waiting", "all nodes have left")
    notice.look("revoked", "by its owner")
    assert log.events[1:] == [
        ("not_serving", {"state": "waiting", "reason": "all nodes have left"})
    ]
    notice.look("ready", "")
    notice.look("draining", "")
    notice.look("stopped", "")
    assert [event for event, _ in log.events] == ["serving", "not_serving", "serving"]
