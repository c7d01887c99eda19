"""Notices for a router's operator, each told once, when it begins: invites over their quota, a clock that is wrong. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from capamesh.protocol.network_clock import ClockNotice, Notice, Skew

if TYPE_CHECKING:
    from collections.abc import Sequence

    from capamesh.protocol.invite_quotas import OverQuota


class Notices:
    """Remembers what was told, and tells what is new."""

    def __init__(self) -> None:
        self._over: frozenset[str] = frozenset()
        self._clock = ClockNotice()

    def about(self, over: Sequence[OverQuota], skew: Skew | None) -> list[Notice]:
        """Return what has begun or ended since the last time."""
        notices = [
            Notice("invite_over_quota", is_good=False, fields=asdict(one))
            for one in over
            if one.invite not in self._over
        ]
        self._over = frozenset(one.invite for one in over)
        clock = self._clock.about(skew)
        return notices if clock is None else [*notices, clock]
