"""Bounds the lines of each kind that a log takes, so that nobody can fill a disk with them. Pure.

Every event has a bucket of tokens, and one for each peer that it is about. A line costs a token of both; without one
it is left out, and the next line of its kind says how many were.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

PEER_BURST: Final = 20
"""Lines of an event about one peer that are taken at once (guess: a node that restarts writes some five)."""
PEER_PER_S: Final = 0.1
"""The lines a second of an event about one peer, after the first few."""
EVENT_BURST: Final = 200
"""Lines of an event about all peers (guess: a whole fleet that comes back at once, and still to be read)."""
EVENT_PER_S: Final = 1.0
"""The lines a second of an event, after the first few: 25 MB a day, of the events that come without end."""
MAX_BUCKETS: Final = 2048
"""Buckets that are remembered; the one that was used longest ago is forgotten first (guess: 0.5 MB)."""


class _Bucket:
    __slots__ = ("left_out", "tokens", "used_s")

    def __init__(self, tokens: float, now_s: float) -> None:
        self.tokens = tokens
        self.used_s = now_s
        self.left_out = 0

    def fill(self, burst: int, per_s: float, now_s: float) -> None:
        self.tokens = min(float(burst), self.tokens + per_s * max(0.0, now_s - self.used_s))
        self.used_s = now_s


class LogRates:
    """Decides which lines are written."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, event: str, peer: str, now_s: float) -> int | None:
        """Return how many lines like this were left out before it, None if this one is to be, too.

        `peer` is whom it is about, empty for nobody.
        """
        whole = self._bucket((event, ""), EVENT_BURST, EVENT_PER_S, now_s)
        mine = self._bucket((event, peer), PEER_BURST, PEER_PER_S, now_s) if peer else whole
        if min(whole.tokens, mine.tokens) < 1.0:
            mine.left_out += 1
            return None
        whole.tokens -= 1.0
        if mine is not whole:
            mine.tokens -= 1.0
        left_out, mine.left_out = mine.left_out, 0
        return left_out

    def _bucket(self, key: tuple[str, str], burst: int, per_s: float, now_s: float) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(float(burst), now_s)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
            bucket.fill(burst, per_s, now_s)
        return bucket
