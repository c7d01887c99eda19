"""Watches how long this member's own membership lasts, and what is to be said of that. Pure; the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from typing_extensions import override

from capamesh.protocol.errors import NotMember

if TYPE_CHECKING:
    from capamesh.protocol.network import Membership, NetworkTrust

WARN_EARLY_AT: Final = 0.5
"""The part of a membership's life that is left when it is first said that it ends, once (guess: 15 days of a month)."""
WARN_AT: Final = 0.1
"""The part that is left when it is said again, and from then on daily (guess: 3 days of a month)."""
WARN_AGAIN: Final = timedelta(days=1)
"""The longest time between two warnings; the next comes sooner once half of the time that was left is gone."""
LAST_WARNING: Final = timedelta(minutes=1)
"""The time before the end after which there is no warning (guess: nobody acts sooner)."""

REVOKED_PEER: Final = "revoked peer"
_ENDS: Final = {
    "expired": "expired",
    REVOKED_PEER: "revoked",
    "revoked invite": "revoked",
    "retired owner key": "revoked",
}
"""The reasons for which `NetworkTrust` refuses a chain that end a membership, with the state in which that puts it."""


class LifeLeft(StrEnum):
    """The part of a membership's life that is left, as far as somebody is to act on it."""

    AMPLE = "ample"
    HALF = "half"
    """Half of the life or less."""
    TENTH = "tenth"
    """A tenth of the life or less."""
    NONE = "none"
    """The membership has ended: it has expired or was revoked."""


class LifeFigures(NamedTuple):
    """The rest of a membership's life in numbers; negative once it has ended."""

    left_s: float
    ratio: float
    """The part of the whole life that is left, from 1 to 0."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The membership ends in `left`: now is the time for a new token."""

    left: timedelta


@dataclass(frozen=True, slots=True)
class Ended:
    """The membership has ended; `state` is expired or revoked."""

    state: str
    reason: str

    @property
    def is_of_peer(self) -> bool:
        """True if the member itself is revoked, so that no token readmits it."""
        return self.reason.startswith(REVOKED_PEER)


@dataclass(frozen=True, slots=True)
class Lasts:
    """A membership that had ended, or was about to, is good again."""


class MembershipLife:
    """Watches over this member's own membership under a trust that its owner keeps up to date."""

    def __init__(self, membership: Membership, trust: NetworkTrust) -> None:
        self._trust = trust
        self.ended: Ended | None = None
        """The way in which it has ended; None while it is good."""
        self._membership = membership
        self._warn_below = _first_warning(membership)
        self._is_ending = False

    @override
    def __repr__(self) -> str:
        state = self.ended.state if self.ended is not None else "good"
        return f"MembershipLife({state}, until {self._membership.expires_at:%Y-%m-%dT%H:%M:%SZ})"

    def renewed(self, membership: Membership) -> None:
        """Take over a membership in the place of the one before."""
        self._membership = membership
        self._warn_below = _first_warning(membership)

    def left(self, now: datetime) -> timedelta:
        """Return in how long the membership ends; negative when it has."""
        return self._membership.expires_at - now

    def ratio(self, now: datetime) -> float:
        """Return the part of the membership's life that is left, from 1 to 0; negative when it has ended."""
        return life_ratio(self._membership.starts_at, self._membership.expires_at, now)

    def look(self, now: datetime) -> Ends | Ended | Lasts | None:
        """Return what is to be said now, each thing once; call it every few seconds and after each change."""
        ended = self._end(now)
        if ended is not None:
            if self.ended is not None and self.ended.state == ended.state:
                return None
            self.ended = ended
            return ended
        left = self.left(now)
        if left <= self._warn_below:
            self.ended, self._is_ending = None, True
            self._warn_below = _next_warning(self._membership, left)
            if self._warn_below < LAST_WARNING:
                self._warn_below = timedelta(0)
            return Ends(left)
        was_in_doubt = self.ended is not None or (
            self._is_ending and left > _first_warning(self._membership)
        )
        self.ended = None
        if was_in_doubt:
            self._is_ending = False
            self._warn_below = _first_warning(self._membership)  # a clock was wrong, and is set
            return Lasts()
        return None

    def fields(self, now: datetime) -> dict[str, Any]:
        """Return what a status says of it."""
        return {
            "expires_at": self._membership.expires_at.isoformat(),
            "expires_in_s": round(self.left(now).total_seconds()),
            "life_left": stage_of(self.ratio(now)).value
            if self.ended is None
            else LifeLeft.NONE.value,
            "revocations_version": self._trust.revocations.version,
        }

    def _end(self, now: datetime) -> Ended | None:
        try:
            self._trust.verify(self._membership.chain, now)
        except NotMember as exc:
            state = _ENDS.get(exc.message.partition(":")[0])
            return None if state is None else Ended(state, exc.message)
        return None


def life_ratio(starts_at: datetime, expires_at: datetime, now: datetime) -> float:
    """Return the part of a life between two times that is left, from 1 to 0; negative after it."""
    life = expires_at - starts_at
    return (expires_at - now) / life if life > timedelta(0) else 0.0


def stage_of(ratio: float) -> LifeLeft:
    """Return whether somebody is to act on a life of which this part is left."""
    if ratio > WARN_EARLY_AT:
        return LifeLeft.AMPLE
    return LifeLeft.HALF if ratio > WARN_AT else LifeLeft.TENTH


def _first_warning(membership: Membership) -> timedelta:
    return (membership.expires_at - membership.starts_at) * WARN_EARLY_AT


def _next_warning(membership: Membership, left: timedelta) -> timedelta:
    """Return what is to be left at the next warning, after one with so much `left`."""
    late = (membership.expires_at - membership.starts_at) * WARN_AT
    return late if left > late else max(left / 2, left - WARN_AGAIN)
