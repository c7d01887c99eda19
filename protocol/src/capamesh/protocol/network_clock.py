"""Tells the time, by this machine's clock and by what other members say. Pure: readings of both clocks come in.

Adverts and memberships are judged by the time of day, and a machine's clock may be wrong. A member that is 20 minutes off
would take every honest advert for stale and every member for expired. So it notes how far each peer's clock is from
its own, by the time in what they signed; one invite has one voice, whatever number of members it admitted.

Peers are believed only as far as a lie can do no harm. Something is in time if it is so by this machine's clock, or by
the clock that most agree on: no liar can make an honest member's advert be late. Of memberships' ends peers decide nothing
but which of two readings of this machine's own is right, when its clock was set while the process ran.

`steady_s` is a monotonic clock in seconds that goes on at any setting of the clock; `wall_ms` is the time of day in
milliseconds since the epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from typing_extensions import override

from capamesh.protocol.adverts import TIME_LIMIT_MS, RejectReason, check_time
from capamesh.protocol.adverts.sequence import FUTURE_LIMIT_NS
from capamesh.protocol.errors import AdvertRejected

if TYPE_CHECKING:
    from capamesh.protocol.adverts import Sequence
    from capamesh.protocol.ids import PeerId

WRONG_S: Final = 60.0
"""The difference to its peers from which a clock is said to be wrong (guess: NTP keeps milliseconds, gossip takes seconds)."""

AGREE_MS: Final = 60_000
"""The most that voices may differ that agree (guess, as above)."""

VOICE_S: Final = 3600.0
"""Seconds for which a peer's word on the time counts (guess: longer than the longest interval of adverts)."""

MIN_VOICES: Final = 2
"""The number of invites whose members must agree before this machine says another time than its own."""

MAX_VOICES: Final = 4096
"""The most voices (guess: of the fleet's nodes, those heard last; about 1 MB)."""

_COUNTED_FOR_S: Final = 1.0
"""A median over all voices takes a millisecond; it is asked for with each message while the clock is wrong."""

_FEW: Final = 64
"""The number of voices up to which all are counted anew after each: a process that starts with a wrong clock takes the first
adverts."""


@dataclass(frozen=True, slots=True)
class Skew:
    """The difference of this machine's clock to its peers'."""

    ahead_s: float
    """Seconds that the peers' clocks are ahead of this one; negative: this one is ahead of theirs."""
    voices: int
    """The number of invites whose members say so."""

    @property
    def is_wrong(self) -> bool:
        """Return whether this is more than clocks may differ."""
        return abs(self.ahead_s) > WRONG_S

    @override
    def __str__(self) -> str:
        way = "ahead of" if self.ahead_s > 0 else "behind"
        whose = (
            "this machine's clock is wrong"
            if self.voices >= MIN_VOICES
            else "one of the two is wrong"
        )
        return f"all peers' clocks are {abs(self.ahead_s):.0f} s {way} this machine's: {whose}"


@dataclass(frozen=True, slots=True)
class _Voice:
    invite: str
    origin_ms: int
    """The peer's time of day when this machine's steady clock was 0."""
    heard_s: float


class NetworkClock:
    """Keeps the voices of peers, and where this machine's own clock stood when the process started."""

    def __init__(self, wall_ms: int, steady_s: float) -> None:
        self._origin_ms = _origin(wall_ms, steady_s)
        """This machine's time of day at steady 0, as it was before the clock was last set far off."""
        self._voices: OrderedDict[PeerId, _Voice] = OrderedDict()
        self._counted_s = float("-inf")
        self._counted: tuple[int, int] | None = None

    def heard(self, peer: PeerId, invite: str, at_ms: int, steady_s: float) -> None:
        """Note the time that a member has just signed with a newer sequence than before."""
        self._voices[peer] = _Voice(invite, _origin(at_ms, steady_s), steady_s)
        self._voices.move_to_end(peer)
        if len(self._voices) > MAX_VOICES:
            self._voices.popitem(last=False)
        if len(self._voices) <= _FEW:
            self._counted_s = float("-inf")

    def is_in_time(self, at_ms: int, wall_ms: int, steady_s: float) -> bool:
        """Return whether something sealed at `at_ms` is new enough, by this machine's clock or by most peers'."""
        if abs(at_ms - wall_ms) <= TIME_LIMIT_MS:
            return True
        agreed = self._agreed(steady_s)
        return agreed is not None and abs(_origin(at_ms, steady_s) - agreed[0]) <= TIME_LIMIT_MS

    def is_ahead(self, at_ms: int, wall_ms: int, steady_s: float) -> bool:
        """Return whether a time is further ahead than clocks may differ, by this machine's clock and by most peers'."""
        if at_ms - wall_ms <= TIME_LIMIT_MS:
            return False
        agreed = self._agreed(steady_s)
        return agreed is None or _origin(at_ms, steady_s) - agreed[0] > TIME_LIMIT_MS

    def skew(self, wall_ms: int, steady_s: float) -> Skew | None:
        """Return how far most peers' clocks are from this one; None while there is no majority."""
        agreed = self._agreed(steady_s)
        if agreed is None:
            return None
        return Skew((agreed[0] - _origin(wall_ms, steady_s)) / 1000, agreed[1])

    def correction_ms(self, wall_ms: int, steady_s: float) -> int:
        """Return what to add to this machine's time to be understood: 0 unless its clock is wrong by most peers'.

        One voice alone corrects nobody: a router whose clock is wrong would have all nodes say its time, and never learn.
        """
        skew = self.skew(wall_ms, steady_s)
        if skew is None or not skew.is_wrong or skew.voices < MIN_VOICES:
            return 0
        return round(skew.ahead_s * 1000)

    def membership_ms(self, wall_ms: int, steady_s: float) -> int:
        """Return the time of day to judge memberships by.

        It is this machine's; or, when that was set by more than clocks may differ, what it would be without, if
        that is nearer to what most peers say.
        """
        origin = _origin(wall_ms, steady_s)
        if abs(origin - self._origin_ms) <= TIME_LIMIT_MS:
            self._origin_ms = origin  # it drifts, and is set right by little and little
            return wall_ms
        agreed = self._agreed(steady_s)
        if agreed is None or abs(origin - agreed[0]) <= abs(self._origin_ms - agreed[0]):
            return wall_ms
        return self._origin_ms + round(steady_s * 1000)

    def _agreed(self, steady_s: float) -> tuple[int, int] | None:
        """Return the time at steady 0 that more than half of the voices agree on, and how many do."""
        if not 0 <= steady_s - self._counted_s < _COUNTED_FOR_S:
            self._counted_s = steady_s
            self._counted = self._count(steady_s)
        return self._counted

    def _count(self, steady_s: float) -> tuple[int, int] | None:
        while self._voices:
            peer, oldest = next(iter(self._voices.items()))
            if steady_s - oldest.heard_s <= VOICE_S:
                break
            del self._voices[peer]
        by_invite: dict[str, list[int]] = {}
        for voice in self._voices.values():
            by_invite.setdefault(voice.invite, []).append(voice.origin_ms)
        voices = [median_low(of_invite) for of_invite in by_invite.values()]
        if not voices:
            return None
        middle = median_low(voices)
        agreeing = sum(abs(voice - middle) <= AGREE_MS for voice in voices)
        return (middle, agreeing) if 2 * agreeing > len(voices) else None

    @override
    def __repr__(self) -> str:
        return f"NetworkClock({len(self._voices)} voices)"


class Notice(NamedTuple):
    """A line for the log."""

    event: str
    is_good: bool
    fields: dict[str, Any]


class ClockNotice:
    """Tells once that the clock is wrong, again when it is wrong by something else, and once that it is right."""

    def __init__(self) -> None:
        self._reported_ahead_s = 0.0
        """The difference by which it was told to be wrong; 0: it is right."""

    def about(self, skew: Skew | None) -> Notice | None:
        """Return what has changed since the last time."""
        ahead_s = skew.ahead_s if skew is not None and skew.is_wrong else 0.0
        if abs(ahead_s - self._reported_ahead_s) <= WRONG_S:  # what is wrong is so by more
            return None
        self._reported_ahead_s = ahead_s
        return Notice(
            "clock_is_wrong" if ahead_s else "clock_is_right", not ahead_s, clock_fields(skew)
        )


def clock_fields(skew: Skew | None) -> dict[str, Any]:
    """Return what is told of the clock; `problem` is empty when it is right, or nobody knows."""
    if skew is None:
        return {"peers_ahead_s": 0.0, "peers": 0, "problem": ""}
    return {
        "peers_ahead_s": round(skew.ahead_s, 3),
        "peers": skew.voices,
        "problem": str(skew) if skew.is_wrong else "",
    }


def check_time_by(
    clock: NetworkClock | None, at_ms: int, sequence: Sequence, wall_ms: int, steady_s: float
) -> None:
    """Raise `AdvertRejected` when an envelope was not sealed about now, by this machine's clock or by most peers'."""
    is_ours_off = (
        clock is not None
        and abs(at_ms - wall_ms) > TIME_LIMIT_MS
        and clock.is_in_time(at_ms, wall_ms, steady_s)
    )
    check_time(at_ms, sequence, at_ms if is_ours_off else wall_ms)


def check_boot_by(
    clock: NetworkClock | None, known: Sequence, sequence: Sequence, wall_ms: int, steady_s: float
) -> None:
    """Raise `AdvertRejected` when a sender that is known has begun anew in the future: nothing that it says later would be newer."""
    if sequence.boot_ns == known.boot_ns:
        return
    boot_ms = sequence.boot_ns // 1_000_000
    if clock is None:
        is_ahead = boot_ms - wall_ms > TIME_LIMIT_MS
    else:
        is_ahead = clock.is_ahead(boot_ms, wall_ms, steady_s)
    if is_ahead:
        raise AdvertRejected(
            RejectReason.FUTURE,
            f"its sender, which is known, began anew {boot_ms - wall_ms} ms ahead of this clock; the limit is {TIME_LIMIT_MS}: set the clocks",
        )


def is_order_void(
    clock: NetworkClock | None,
    known: Sequence | None,
    at_ms: int,
    sequence: Sequence,
    wall_ms: int,
    steady_s: float,
) -> bool:
    """Return whether `sequence`, which is not newer than `known`, may replace it all the same.

    The sender's clock was ahead, and perhaps this machine's; it was set right since, for what comes now was sealed about now. No replay is,
    by the right time: an earlier one of that sender is older than the limit, or as new as what it says now. Where most peers say that this
    machine's clock is wrong, theirs is the time: by a clock that is days behind, a goodbye of then is sealed about now.
    """
    now_ms = wall_ms + (clock.correction_ms(wall_ms, steady_s) if clock is not None else 0)
    if known is None or known.boot_ns - now_ms * 1_000_000 <= FUTURE_LIMIT_NS:
        return False
    try:
        check_time(at_ms, sequence, now_ms)
    except AdvertRejected:
        return False
    return True


def _origin(wall_ms: int, steady_s: float) -> int:
    return wall_ms - round(steady_s * 1000)
