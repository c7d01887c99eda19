"""Requests of one key meet at one replica, unless it has more than its share. Pure, seeded.

Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): replicas and keys are points on a
ring, and a key belongs to the first replica after it that has less than `BOUND` times the mean in flight. When a
replica leaves, only its keys move, each to whichever replica follows it, so that they spread over all; when it comes
back they return. A sequence, whose state is at its node, stays where it belongs however much is to do there. Routers that see the same nodes place keys alike, without a word between them.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
import struct
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from capamesh.router.policies.drawing import draw_two
from capamesh.router.policies.policy import IsEligible, PolicyBase
from capamesh.router.policies.request_shape import RequestShape

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelVersion, PeerId
    from capamesh.router.fleet.replica import Replica

BOUND = 1.25
"""A replica may be loaded this many times the mean (guess): one place of five is left free. Keys that move when a replica
comes, goes or fills grow in number as (bound - 1)**-2 by the paper."""
POINTS = 64
"""Points of a replica on the ring (guess): a replica's share of the keys varies by about 1 / sqrt(64)."""
MAX_RINGS = 4
"""Versions of the model whose rings are kept (guess: two or three are served at a time)."""
MIN_STEPS = 64
"""Points after the key that are looked at before all replicas are (guess): one in a million keys meets no replica with
room in so many where a fifth of the replicas has."""
SUM_SHARE = 64
"""The requests in flight are summed anew every (replicas / this) picks (guess): every time in fleets of less than 128,
and for about 2 us a pick in larger ones."""
COUNT_SHARE = 8
"""Eligible replicas are counted anew every (replicas / this) picks (guess): about 2 us a pick."""
COUNT_AGE_S = 0.1
"""The sum of the requests in flight is never older than this (guess), so that the bound follows soon when replicas fall out."""

_DIGEST = struct.Struct(">8Q")
"""A digest of 64 bytes, the longest of BLAKE2b, gives eight points."""
_rif = attrgetter("rif")


class Affinity(PolicyBase):
    """The replica that a request's key belongs to; a request without a key goes as with `p2c`.

    The bound counts this router's own requests.
    """

    name: ClassVar[str] = "affinity"

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._rings: dict[ModelVersion, _Ring] = {}

    def __copy__(self) -> Affinity:
        """Return a policy with rings of its own, as they are now."""
        policy = Affinity(self._rng)
        policy._rings = {version: ring.copy() for version, ring in self._rings.items()}
        return policy

    @override
    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        if not request.affinity:
            pair = draw_two(replicas, is_eligible, self._draw)
            return pair and (pair[0] if pair[0].rif <= pair[1].rif else pair[1])
        if not replicas:
            return None
        ring = self._rings.get(request.version)
        if ring is None:
            if len(self._rings) >= MAX_RINGS:
                del self._rings[next(iter(self._rings))]
            ring = self._rings[request.version] = _Ring()
        if ring.replicas is not replicas:
            ring.follow(replicas)
        return ring.pick(is_eligible, request.affinity, now_s, is_pinned=request.is_pinned)


class _Ring:
    """The points of one version's replicas, and how much each may have in flight."""

    def __init__(self) -> None:
        self.replicas: Sequence[Replica] = ()
        self._numbers: dict[Replica, int] = {}
        """The number of each replica among those of its node: a node has one for each of its workers."""
        self._owners: dict[int, Replica] = {}
        self._points: list[int] = []
        """The points of all replicas on the ring, ascending."""
        self._in_flight = 0
        self._summed_in = 0
        self._eligible = 0
        self._counted_in = 0
        self._counted_s = -math.inf

    def copy(self) -> _Ring:
        """Return a ring with the same points, which goes on by itself."""
        ring: _Ring = copy.copy(self)
        ring._numbers = self._numbers.copy()
        ring._owners = self._owners.copy()
        ring._points = self._points.copy()
        return ring

    def follow(self, replicas: Sequence[Replica]) -> None:
        """Take over who hosts the version now; only those that came or went cost anything to speak of."""
        here = set(replicas)
        gone = self._numbers.keys() - here
        for replica in gone:
            for point in _points(replica.endpoint.peer, self._numbers.pop(replica)):
                self._owners.pop(point, None)
        if gone:
            self._points = [point for point in self._points if point in self._owners]
        if len(here) > len(self._numbers):
            taken: dict[PeerId, set[int]] = {}
            for replica, number in self._numbers.items():
                taken.setdefault(replica.endpoint.peer, set()).add(number)
            for replica in replicas:
                if replica not in self._numbers:
                    self._add(replica, taken.setdefault(replica.endpoint.peer, set()))
            self._points.sort()
        self.replicas = replicas
        self._summed_in = self._counted_in = 0

    def _add(self, replica: Replica, taken: set[int]) -> None:
        number = next(number for number in range(len(taken) + 1) if number not in taken)
        taken.add(number)
        self._numbers[replica] = number
        for point in _points(replica.endpoint.peer, number):
            self._owners[point] = replica
            self._points.append(point)

    def pick(
        self, is_eligible: IsEligible, key: str, now_s: float, *, is_pinned: bool = False
    ) -> Replica | None:
        """Return the replica that `key` belongs to now, None when none is eligible.

        With `is_pinned` it is the first eligible one, whatever it has to do.
        """
        self._summed_in -= 1
        self._counted_in -= 1
        points = self._points
        count = len(points)
        at = bisect_left(points, _place(key))
        first = self._owners[points[at % count]]
        # most keys end here; nothing in flight is under every bound
        if is_eligible(first) and (
            is_pinned or first.rif == 0 or first.rif < self._capacity(is_eligible, now_s)
        ):
            return first
        capacity = math.inf if is_pinned else self._capacity(is_eligible, now_s)
        seen = {first}
        for step in range(at + 1, at + min(count, MIN_STEPS + len(self.replicas) // 2)):
            replica = self._owners[points[step % count]]
            if replica not in seen:
                seen.add(replica)
                if replica.rif < capacity and is_eligible(replica):
                    return replica
        return min(
            (replica for replica in self.replicas if is_eligible(replica)), key=_rif, default=None
        )

    def _capacity(self, is_eligible: IsEligible, now_s: float) -> int:
        """Return how many requests each replica may have in flight with the one that comes."""
        replicas = self.replicas
        if self._summed_in <= 0:
            self._in_flight = sum(map(_rif, replicas))
            self._summed_in = len(replicas) // SUM_SHARE
        if self._counted_in <= 0 or not 0 <= now_s - self._counted_s <= COUNT_AGE_S:
            self._eligible = sum(map(is_eligible, replicas))
            self._counted_in = len(replicas) // COUNT_SHARE
            self._counted_s = now_s
        return math.ceil(BOUND * (self._in_flight + 1) / max(1, self._eligible))


def _points(peer: PeerId, number: int) -> list[int]:
    """Return where on the ring a node's replica stands: the same at every router and after every return."""
    points: list[int] = []
    for part in range(POINTS // 8):
        points += _DIGEST.unpack(hashlib.blake2b(f"{peer}/{number}/{part}".encode()).digest())
    return points


def _place(key: str) -> int:
    # a key comes from a caller's JSON, which can name halves of characters
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
