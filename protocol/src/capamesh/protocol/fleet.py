"""Keeps the fleet's members, from the adverts heard: joins, suspicion, expiry and quarantine. Pure.

Time is a monotonic clock in seconds that the caller reads; an advert ages from its arrival, by the
receiver's own clock, and a peer is silent for too long by the interval that its own last advert told: how often
others advertise, or would have it advertise, is no matter. A peer's newest sequence wins, so the order in which
adverts arrive does not matter. A peer that left is a tombstone with its last sequence: an old advert of it, still on
its way or replayed, cannot bring it back, only a newer one of its own can.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.adverts import is_acceptable
from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from capamesh.protocol.adverts import NodeAdvert, Sequence
    from capamesh.protocol.ids import PeerId

REPLAY_WINDOW_S = 1200.0
"""Seconds for which a receiver may accept one envelope: its `at` may be 10 minutes ahead, then 10 minutes behind."""

SUSPECT_AFTER: Final = 2.2
"""The intervals, each as the member told, after which it is suspected: two and their jitter, so that one lost advert is no
suspicion."""
EXPIRE_AFTER: Final = 3.5
"""The intervals, each as the member told, after which it is expired: three, their jitter and gossip's delay. At 1 % loss that
is enough; a network that loses a tenth has seven false expiries a node and day (measured: benchmarks/scale.py)."""


class LeftReason(StrEnum):
    """The reason why a peer is no member any more."""

    GOODBYE = "goodbye"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Joined:
    """A peer is a member now, for the first time or again after it left."""

    advert: NodeAdvert


@dataclass(frozen=True, slots=True)
class Changed:
    """A member says something else than before."""

    advert: NodeAdvert
    before: NodeAdvert


@dataclass(frozen=True, slots=True)
class Suspected:
    """A member was silent for `suspect_after` of its intervals; it stays a member until `expire_after`."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Recovered:
    """A suspected member was heard again; comes before its `Changed`, if any."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Left:
    """A peer is no member any more."""

    peer: PeerId
    reason: LeftReason


Change = Joined | Changed | Suspected | Recovered | Left


@dataclass(slots=True)
class FleetCounts:
    """The events counted since the start. `adverts` and `goodbyes` are those accepted."""

    adverts: int = 0
    goodbyes: int = 0
    stale: int = 0
    """Adverts and goodbyes not newer than what was known of their peer."""
    refused: int = 0
    """Adverts of unknown peers while the fleet was full."""
    quarantined: int = 0
    """Adverts and goodbyes of peers that were expelled."""
    joined: int = 0
    left: int = 0
    tombstones_dropped: int = 0
    """Tombstones forgotten before their time because there were too many."""


@dataclass(slots=True)
class _Member:
    advert: NodeAdvert
    heard_s: float
    sequence: Sequence | None
    """The newest that is known; None: whatever comes is newer."""
    is_suspected: bool = False


@dataclass(frozen=True, slots=True)
class _Tombstone:
    sequence: Sequence | None
    """The last known; None for an expelled peer, which no sequence brings back."""
    died_s: float


class FleetMembership:
    """Keeps the members of the fleet and says what changed. One owner; others get its changes.

    Hearing costs O(1) whatever the fleet's size; a tick costs nothing until somebody may be due, and looks at
    all members then: once in 1.2 intervals or more while nobody is. At most `max_peers` members and as
    many tombstones are kept: when full, unknown peers are refused and the oldest tombstones are forgotten. A clock that goes backwards is taken to stand still.
    """

    def __init__(
        self,
        expire_after: float = EXPIRE_AFTER,
        suspect_after: float = SUSPECT_AFTER,
        tombstone_s: float = REPLAY_WINDOW_S,
        max_peers: int = 20_000,  # a guess: about 100 MB of adverts with 20 models each
    ) -> None:
        """Raise `ConfigError` for limits that cannot work together; the first two are in intervals."""
        if not 0 < suspect_after < expire_after:
            raise ConfigError(
                f"suspect_after is {suspect_after:g} intervals; it must be over 0 and under expire_after, "
                f"{expire_after:g}"
            )
        if tombstone_s < REPLAY_WINDOW_S:
            raise ConfigError(
                f"tombstone_s is {tombstone_s:g}; under {REPLAY_WINDOW_S:g} an old advert could "
                "bring a departed peer back"
            )
        if max_peers < 1:
            raise ConfigError(f"max_peers is {max_peers}; it must be at least 1")
        self.counts = FleetCounts()
        self._expire_after = expire_after
        self._suspect_after = suspect_after
        self._tombstone_s = tombstone_s
        self._max_peers = max_peers
        self._now_s = -math.inf
        self._members: dict[PeerId, _Member] = {}
        """Longest unheard first."""
        self._idle_until_s = math.inf
        """Nothing is due of a member before this; it may be that nothing is then."""
        self._suspects = 0
        self._tombstones: OrderedDict[PeerId, _Tombstone] = OrderedDict()
        """The oldest first."""

    def heard(self, advert: NodeAdvert, now_s: float) -> list[Change]:
        """Take in a verified advert; return what it changed, nothing when it is not news."""
        now_s = self._advance(now_s)
        peer = advert.peer
        if not self._is_news(peer, advert.sequence):
            return []
        before = self._members.get(peer)
        if before is None and len(self) >= self._max_peers:
            self.counts.refused += 1
            return []
        self.counts.adverts += 1
        self._tombstones.pop(peer, None)
        self._drop(peer)
        member = self._members[peer] = _Member(advert, now_s, advert.sequence)
        self._idle_until_s = min(self._idle_until_s, self._due_of(member))
        if before is None:
            self.counts.joined += 1
            return [Joined(advert)]
        changes: list[Change] = [Recovered(peer)] if before.is_suspected else []
        is_restarted = advert.sequence.boot_ns != before.advert.sequence.boot_ns
        if is_restarted or not advert.says_the_same_as(before.advert):
            changes.append(Changed(advert, before.advert))
        return changes

    def heard_goodbye(self, peer: PeerId, sequence: Sequence, now_s: float) -> list[Change]:
        """Take in a verified goodbye; it also keeps out older adverts that come after it."""
        now_s = self._advance(now_s)
        if not self._is_news(peer, sequence):
            return []
        self.counts.goodbyes += 1
        return self._remove(peer, LeftReason.GOODBYE, sequence, now_s)

    def expel(self, peer: PeerId, now_s: float) -> list[Change]:
        """Remove a revoked peer. No advert brings it back while its tombstone stands."""
        now_s = self._advance(now_s)
        return self._remove(peer, LeftReason.REVOKED, None, now_s)

    def tick(
        self,
        now_s: float,
        is_linked: Callable[[PeerId], bool] = lambda _: False,
        is_in_vain: Callable[[PeerId], bool] = lambda _: False,
    ) -> list[Change]:
        """Return who is newly suspected or has expired by `now_s`, longest silent first.

        A member that was to be suspected and to expire between two ticks just leaves. One that answers on a link
        (`is_linked`) is alive, though its adverts are lost or not believed: its silence begins anew. One that is dialled
        in vain, or has hung up (`is_in_vain`), leaves when it would be suspected: two signs are as good as a longer silence.
        """
        now_s = self._advance(now_s)
        changes: list[Change] = []
        if now_s >= self._idle_until_s:
            for peer, member in list(self._members.items()):
                if self._due_of(member) > now_s:
                    continue
                if is_linked(peer):
                    changes += self._seen(peer, member, now_s)
                elif (
                    member.heard_s + self._expire_after * member.advert.interval_s <= now_s
                    or is_in_vain(peer)
                ):
                    changes += self._remove(peer, LeftReason.EXPIRED, member.advert.sequence, now_s)
                elif not member.is_suspected:
                    member.is_suspected = True
                    self._suspects += 1
                    changes.append(Suspected(peer))
            self._idle_until_s = min(map(self._due_of, self._members.values()), default=math.inf)
        while self._tombstones:
            peer, tombstone = next(iter(self._tombstones.items()))
            if tombstone.died_s + self._tombstone_s > now_s:
                break
            del self._tombstones[peer]
        return changes

    def _seen(self, peer: PeerId, member: _Member, now_s: float) -> list[Change]:
        """Note a sign of life that is no advert."""
        self._drop(peer)
        self._members[peer] = _Member(member.advert, now_s, member.sequence)
        return [Recovered(peer)] if member.is_suspected else []

    def due_s(self) -> float | None:
        """Return when the next tick has something to do, on the caller's clock; None: nothing waits."""
        times_s = [self._due_of(member) for member in self._members.values()]
        if self._tombstones:
            times_s.append(next(iter(self._tombstones.values())).died_s + self._tombstone_s)
        return min(times_s, default=None)

    def members(self) -> Mapping[PeerId, NodeAdvert]:
        """Return a snapshot of the members' newest adverts, the suspected among them."""
        return {peer: member.advert for peer, member in self._members.items()}

    def is_suspected(self, peer: PeerId) -> bool:
        """Return whether `peer` is a member that has been silent for `suspect_after` of its intervals."""
        member = self._members.get(peer)
        return member is not None and member.is_suspected

    def known_sequence(self, peer: PeerId) -> Sequence | None:
        """Return the newest sequence known of a member or a departed peer; None if unknown or expelled."""
        if (member := self._members.get(peer)) is not None:
            return member.sequence
        tombstone = self._tombstones.get(peer)
        return None if tombstone is None else tombstone.sequence

    def forget_order(self, peer: PeerId) -> None:
        """Take whatever comes of a member, or of one that left, for newer than what is known of it."""
        if (member := self._members.get(peer)) is not None:
            member.sequence = None
        elif self.known_sequence(peer) is not None:
            del self._tombstones[peer]

    def summary(self) -> str:
        """Return the state in a line: "3 members, 1 suspected, 2 tombstones"."""
        return (
            f"{len(self)} members, {self._suspects} suspected, {len(self._tombstones)} tombstones"
        )

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: object) -> bool:
        return peer in self._members

    @override
    def __repr__(self) -> str:
        return f"FleetMembership({self.summary()})"

    def _advance(self, now_s: float) -> float:
        self._now_s = max(self._now_s, now_s)
        return self._now_s

    def _is_news(self, peer: PeerId, sequence: Sequence) -> bool:
        """Return whether `sequence` may change what is known of `peer`; count it where not."""
        tombstone = self._tombstones.get(peer)
        if tombstone is not None and tombstone.sequence is None:
            self.counts.quarantined += 1
            return False
        if not is_acceptable(self.known_sequence(peer), sequence):
            self.counts.stale += 1
            return False
        return True

    def _remove(
        self, peer: PeerId, reason: LeftReason, sequence: Sequence | None, now_s: float
    ) -> list[Change]:
        """Bury `peer`, member or not, with the last `sequence` known of it."""
        self._tombstones.pop(peer, None)
        self._tombstones[peer] = _Tombstone(sequence, now_s)
        if len(self._tombstones) > self._max_peers:
            self._tombstones.popitem(last=False)
            self.counts.tombstones_dropped += 1
        if not self._drop(peer):
            return []
        self.counts.left += 1
        return [Left(peer, reason)]

    def _drop(self, peer: PeerId) -> bool:
        """Forget a member; return whether `peer` was one."""
        member = self._members.pop(peer, None)
        self._suspects -= member is not None and member.is_suspected
        return member is not None

    def _due_of(self, member: _Member) -> float:
        """Return when a member that is not heard again is suspected, or leaves if it is already."""
        after = self._expire_after if member.is_suspected else self._suspect_after
        return member.heard_s + after * member.advert.interval_s
