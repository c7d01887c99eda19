"""Who is in the fleet, from the adverts heard: joins, suspicion, expiry and quarantine. Pure.

Time is a monotonic clock in seconds that the caller reads; an advert ages from its arrival, by the
receiver's own clock. A peer's newest sequence wins, so the order in which adverts arrive does not
matter. A peer that left is a tombstone with its last sequence: an old advert of it, still on its way
or replayed, cannot bring it back, only a newer one of its own can.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from capamesh.protocol.adverts import is_acceptable
from capamesh.protocol.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from capamesh.protocol.adverts import NodeAdvert, Sequence
    from capamesh.protocol.ids import PeerId

REPLAY_WINDOW_S = 1200.0
"""How long a receiver may accept one envelope: its `at` may be 10 minutes ahead, then 10 minutes behind."""


class LeftReason(StrEnum):
    """Why a peer is no member any more."""

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
    """A member was silent for `suspect_after_s`; it stays a member until `ttl_s`."""

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
    """What happened since the start. `adverts` and `goodbyes` are those accepted."""

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


@dataclass(frozen=True, slots=True)
class _Member:
    advert: NodeAdvert
    heard_s: float


@dataclass(frozen=True, slots=True)
class _Tombstone:
    sequence: Sequence | None
    """The last known; None for an expelled peer, which no sequence brings back."""
    died_s: float


class FleetMembership:
    """Keeps the members of the fleet and says what changed. One owner; others get its changes.

    Hearing costs O(1) whatever the fleet's size, and a tick costs what is due. At most `max_peers`
    members and as many tombstones are kept: when full, unknown peers are refused and the oldest
    tombstones are forgotten. A clock that goes backwards is taken to stand still.
    """

    def __init__(
        self,
        ttl_s: float = 35.0,  # three intervals of 10 s and their jitter
        suspect_after_s: float = 22.0,  # two intervals of 10 s and their jitter
        tombstone_s: float = REPLAY_WINDOW_S,
        max_peers: int = 20_000,  # a guess: about 100 MB of adverts with 20 models each
    ) -> None:
        """Raise `ConfigError` for limits that cannot work together."""
        if not 0 < suspect_after_s < ttl_s:
            raise ConfigError(
                f"suspect_after_s is {suspect_after_s:g}; it must be over 0 and under ttl_s, {ttl_s:g}"
            )
        if tombstone_s < REPLAY_WINDOW_S:
            raise ConfigError(
                f"tombstone_s is {tombstone_s:g}; under {REPLAY_WINDOW_S:g} an old advert could "
                "bring a departed peer back"
            )
        if max_peers < 1:
            raise ConfigError(f"max_peers is {max_peers}; it must be at least 1")
        self.counts = FleetCounts()
        self._ttl_s = ttl_s
        self._suspect_after_s = suspect_after_s
        self._tombstone_s = tombstone_s
        self._max_peers = max_peers
        self._now_s = float("-inf")
        # Each in the order of its times, oldest first: what is due stands in front.
        self._fresh: OrderedDict[PeerId, _Member] = OrderedDict()
        self._suspects: OrderedDict[PeerId, _Member] = OrderedDict()
        self._tombstones: OrderedDict[PeerId, _Tombstone] = OrderedDict()

    def heard(self, advert: NodeAdvert, now_s: float) -> list[Change]:
        """Take in a verified advert; return what it changed, nothing when it is not news."""
        now_s = self._advance(now_s)
        peer = advert.peer
        member = self._fresh.get(peer) or self._suspects.get(peer)
        if not self._is_news(peer, advert.sequence):
            return []
        if member is None and len(self) >= self._max_peers:
            self.counts.refused += 1
            return []
        self.counts.adverts += 1
        self._tombstones.pop(peer, None)
        self._fresh.pop(peer, None)
        was_suspected = self._suspects.pop(peer, None) is not None
        self._fresh[peer] = _Member(advert, now_s)
        if member is None:
            self.counts.joined += 1
            return [Joined(advert)]
        changes: list[Change] = [Recovered(peer)] if was_suspected else []
        if not advert.says_the_same_as(member.advert):
            changes.append(Changed(advert, member.advert))
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

    def tick(self, now_s: float) -> list[Change]:
        """Return who is newly suspected or has expired by `now_s`, longest silent first.

        A member whose whole `ttl_s` passed between two ticks just leaves.
        """
        now_s = self._advance(now_s)
        changes: list[Change] = []
        for members in (self._suspects, self._fresh):
            while members:
                peer, member = next(iter(members.items()))
                if member.heard_s + self._ttl_s > now_s:
                    break
                changes += self._remove(peer, LeftReason.EXPIRED, member.advert.sequence, now_s)
        while self._fresh:
            peer, member = next(iter(self._fresh.items()))
            if member.heard_s + self._suspect_after_s > now_s:
                break
            self._suspects[peer] = self._fresh.pop(peer)
            changes.append(Suspected(peer))
        while self._tombstones:
            peer, tombstone = next(iter(self._tombstones.items()))
            if tombstone.died_s + self._tombstone_s > now_s:
                break
            del self._tombstones[peer]
        return changes

    def due_s(self) -> float | None:
        """Return when the next tick has something to do, on the caller's clock; None: nothing waits."""
        times_s: list[float] = []
        if self._fresh:
            times_s.append(next(iter(self._fresh.values())).heard_s + self._suspect_after_s)
        if self._suspects:
            times_s.append(next(iter(self._suspects.values())).heard_s + self._ttl_s)
        if self._tombstones:
            times_s.append(next(iter(self._tombstones.values())).died_s + self._tombstone_s)
        return min(times_s, default=None)

    def members(self) -> Mapping[PeerId, NodeAdvert]:
        """Return a snapshot of the members' newest adverts, the suspected among them."""
        return {
            peer: member.advert
            for members in (self._suspects, self._fresh)
            for peer, member in members.items()
        }

    def is_suspected(self, peer: PeerId) -> bool:
        """Whether `peer` is a member that has been silent for `suspect_after_s`."""
        return peer in self._suspects

    def known_sequence(self, peer: PeerId) -> Sequence | None:
        """Return the newest sequence known of a member or a departed peer; None if unknown or expelled."""
        if (member := self._fresh.get(peer) or self._suspects.get(peer)) is not None:
            return member.advert.sequence
        tombstone = self._tombstones.get(peer)
        return None if tombstone is None else tombstone.sequence

    def summary(self) -> str:
        """Return the state in a line: "3 members, 1 suspected, 2 tombstones"."""
        return (
            f"{len(self)} members, {len(self._suspects)} suspected, "
            f"{len(self._tombstones)} tombstones"
        )

    def __len__(self) -> int:
        return len(self._fresh) + len(self._suspects)

    def __repr__(self) -> str:
        return f"FleetMembership({self.summary()})"

    def _advance(self, now_s: float) -> float:
        self._now_s = max(self._now_s, now_s)
        return self._now_s

    def _is_news(self, peer: PeerId, sequence: Sequence) -> bool:
        """Whether `sequence` may change what is known of `peer`; counts it where not."""
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
        member = self._fresh.pop(peer, None) or self._suspects.pop(peer, None)
        if member is None:
            return []
        self.counts.left += 1
        return [Left(peer, reason)]
