"""What a router's operator should know and is told once, when it begins: invites over their quota, a clock that is wrong. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.invite_quotas import OverQuota
    from capamesh.protocol.network_clock import Skew


class Notice(NamedTuple):
    """A line for the log."""

    event: str
    is_good: bool
    fields: dict[str, Any]


class Notices:
    """Remembers what was told, and tells what is new."""

    def __init__(self) -> None:
        self._over: frozenset[str] = frozenset()
        self._is_clock_wrong = False

    def about(self, over: Sequence[OverQuota], skew: Skew | None) -> list[Notice]:
        """Return what has begun or ended since the last time."""
        notices = [
            Notice("invite_over_quota", is_good=False, fields=asdict(one))
            for one in over
            if one.invite not in self._over
        ]
        self._over = frozenset(one.invite for one in over)
        is_wrong = skew is not None and skew.is_wrong
        if is_wrong != self._is_clock_wrong:
            self._is_clock_wrong = is_wrong
            if is_wrong:
                notices.append(Notice("clock_is_wrong", is_good=False, fields=clock_fields(skew)))
            else:
                notices.append(Notice("clock_is_right", is_good=True, fields=clock_fields(skew)))
        return notices


def clock_fields(skew: Skew | None) -> dict[str, Any]:
    """Return what is told of the clock; `problem` is empty when it is right, or nobody knows."""
    if skew is None:
        return {"peers_ahead_s": 0.0, "peers": 0, "problem": ""}
    return {
        "peers_ahead_s": round(skew.ahead_s, 3),
        "peers": skew.voices,
        "problem": str(skew) if skew.is_wrong else "",
    }
