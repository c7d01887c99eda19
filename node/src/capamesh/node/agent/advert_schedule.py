"""The schedule of a node's adverts: at intervals, on changes, and for routers that are new. Pure.

Each advert tells the interval that its node keeps to, by which receivers judge its silence
(`docs/decisions/0015-adaptive-adverts.md`).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.adverts import FleetSize, advert_interval_s, newcomer_spread_s

if TYPE_CHECKING:
    import random

    from capamesh.protocol.adverts import RouterAdvert
    from capamesh.protocol.ids import PeerId

JITTER: Final = 0.1
"""Part of the interval by which it varies, so that a fleet does not advertise in step (guess)."""
SETTLE_S: Final = 0.05
"""Changes this close together make one advert (guess: models that load one after the other)."""
AGAIN_S: Final = 3.0
"""A change is advertised again after this time: at 120 s and 10 % loss that makes the mean until it is known 2.3 s, not 13
(measured: benchmarks/scale.py; the time is a guess: longer than what loses one message lasts)."""
KEPT_PROMISES: Final = 3
"""A member expires when this many adverts in a row are lost: the interval grows once this many have told it."""
ROUTER_SILENT_S: Final = 35.0
"""A router not heard for so long is new when it is heard again: three of its adverts, one each 10 s, and jitter."""
NEWCOMER_BURST: Final = 3
"""New routers for which a node advertises at once (guess: a fleet's routers restarted one after the other);
then for one an interval, so that routers that come and go all the time at most double a node's adverts."""
MAX_ROUTERS: Final = 1000
"""The most routers of which it is remembered when they were heard (guess: far more than a network has)."""


class Newcomers:
    """Tells whether a router has just appeared: unknown, long unheard, or started anew."""

    def __init__(self) -> None:
        self._heard: OrderedDict[PeerId, tuple[int, float]] = OrderedDict()
        """The time at which each router started, on its own clock, and at which it was last heard; longest unheard first."""

    def is_one(self, router: RouterAdvert, now_s: float) -> bool:
        """Return whether `router`, heard at `now_s`, knew of nobody a short time ago."""
        known_ns, heard_s = self._heard.pop(router.peer, (-1, -math.inf))
        boot_ns = router.sequence.boot_ns
        self._heard[router.peer] = (max(boot_ns, known_ns), now_s)
        if len(self._heard) > MAX_ROUTERS:
            self._heard.popitem(last=False)
        return boot_ns > known_ns or now_s - heard_s > ROUTER_SILENT_S


class AdvertSchedule:
    """The times of one node's adverts, on any clock that does not go backwards; the first is due at once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._reported = FleetSize()
        self._newcomers = Newcomers()
        self._credit = float(NEWCOMER_BURST)
        self._credited_s = -math.inf
        self._promised_s: deque[int] = deque(maxlen=KEPT_PROMISES)
        self._regular_s = -math.inf
        self._change_s = math.inf
        self._again_s = math.inf
        self._newcomer_s = math.inf

    @property
    def due_s(self) -> float:
        """Return the time at which the next advert is due."""
        return min(self._regular_s, self._change_s, self._again_s, self._newcomer_s)

    def changed(self, now_s: float) -> None:
        """The node has something else to say: soon, and once more."""
        self._change_s = min(self._change_s, now_s + SETTLE_S)

    def reached(self, now_s: float) -> None:
        """Adverts reach a router again, which none did before: it may be all the fleet's first."""
        self._introduce(now_s)

    def router_heard(self, router: RouterAdvert, now_s: float) -> None:
        """A router said how many nodes it knows; if it is new, it shall know this one too."""
        self._reported.reported(router.nodes, now_s)
        if not self._newcomers.is_one(router, now_s) or self._newcomer_s < math.inf:
            return
        gained = (now_s - self._credited_s) / advert_interval_s(self._reported.at(now_s))
        self._credit = min(NEWCOMER_BURST, self._credit + gained)
        self._credited_s = now_s
        if self._credit >= 1:
            self._credit -= 1
            self._introduce(now_s)

    def publishing(self, now_s: float) -> int:
        """An advert goes out now, whether one was due or not; return the interval that it must tell."""
        interval_s = advert_interval_s(self._reported.at(now_s))
        # Each of the last adverts may be the only one that was not lost: what it told is kept.
        self._promised_s.append(interval_s)
        jitter = self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._regular_s = now_s + min(self._promised_s) * jitter
        if self._change_s < math.inf:
            self._again_s = now_s + AGAIN_S
        elif self._again_s <= now_s:
            self._again_s = math.inf
        self._change_s = self._newcomer_s = math.inf
        return interval_s

    def _introduce(self, now_s: float) -> None:
        spread_s = newcomer_spread_s(self._reported.at(now_s))
        self._newcomer_s = min(self._newcomer_s, now_s + self._rng.uniform(0, spread_s))

    @override
    def __repr__(self) -> str:
        return f"AdvertSchedule({self._reported!r}, due at {self.due_s:.2f} s)"
