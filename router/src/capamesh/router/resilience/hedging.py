"""Decides when a request is sent to a second node, and when silence is a fault of the first. Pure.

A hedge (gRPC A6; Dean and Barroso, The Tail at Scale, 2013) is sent once a request has taken longer than 95 % of
recent ones do: by that choice one of 20 would be hedged. It cannot feed itself: under overload all become slow, the
percentile follows, and whatever it says, no more than 5 % of requests are ever hedged, because each brings in a
twentieth of the token that a hedge costs.

For the percentile to stay true, the window must also be told of attempts that were withdrawn because another
won, with the time they had taken: were they left out, it would know only the fast ones.
"""

from __future__ import annotations

from typing_extensions import override

from capamesh.router.resilience.latency_window import LatencyWindow

REQUESTS_A_HEDGE = 20
"""5 % (The Tail at Scale: 2 to 5 % more load)."""
HEDGE_BURST = 10
"""Hedges that may be saved up (guess: what one node has under way when it stalls)."""
HEDGE_QUANTILE = 0.95
"""The Tail at Scale."""
HEDGE_FLOOR_S = 0.001
"""A hedge is sent no sooner than this (guess: a second attempt then costs the router more than it wins)."""
FEW_SAMPLES = 20
"""No percentile is taken of fewer samples: it would be the largest (one of 20)."""

SILENT_QUANTILE = 0.99
SILENT_FACTOR = 3.0
"""Silence is a fault after this many times the 99th percentile (guess)."""
SILENT_EXPECTED_FACTOR = 4.0
"""Silence is no fault before this many times what this very replica is expected to take (guess: a slow device is no fault)."""
SILENT_FLOOR_S = 0.05
"""Silence is no fault before this (guess: a pause of the garbage collector, a lost packet sent again)."""
SILENT_NEW_S = 5.0
"""The floor while few latencies are known (guess: first runs load libraries and tune kernels)."""
SILENT_MOST_S = 30.0
"""A remote node's first byte (precedent: Mesh-LLM came down to it from 5 minutes)."""
SILENT_MOST_FACTOR = 1.5
"""A model that takes longer than that is given this many times its own time (guess)."""
IDLE_FACTOR = 4.0
"""Silence between two parts of an answer is a fault after this many times the 99th percentile, or the time that its node's parts take (guess)."""
IDLE_FLOOR_S = 2.0
"""Silence between two parts is no fault before this (guess: a device that others use too, a lost packet sent again)."""
FAIR_FACTOR = 2.0
"""A deadline does not make silence a fault before this many times what is usual (guess)."""


class Hedging:
    """One model's hedges and first-byte limits. All times are seconds."""

    __slots__ = ("_gaps", "_paid", "_window", "is_enabled", "spent")

    def __init__(self, window: LatencyWindow, *, is_enabled: bool = True) -> None:
        self._window = window
        self._gaps: LatencyWindow | None = None
        self._paid = 0
        self.is_enabled = is_enabled
        """True if requests are hedged; first-byte limits are given in any case."""
        self.spent = 0
        """The number of hedges that were paid for."""

    @override
    def __repr__(self) -> str:
        return f"Hedging({self._paid // REQUESTS_A_HEDGE} hedges saved, {self._window!r})"

    def sent(self, now_s: float) -> None:
        """A request was sent for the first time: a twentieth of a hedge is earned."""
        del now_s  # bounded by count: what is saved up need not age
        if self._paid < HEDGE_BURST * REQUESTS_A_HEDGE:
            self._paid += 1

    def delay_s(self, now_s: float) -> float | None:
        """Return after how long a request is hedged, None when not: disabled, or too little is known."""
        if not self.is_enabled or self._window.count < FEW_SAMPLES:
            return None
        return max(HEDGE_FLOOR_S, self._window.read(now_s)[HEDGE_QUANTILE])

    def try_hedge(self, now_s: float) -> bool:
        """Take what a hedge costs; return False, and take nothing, when there is not enough."""
        del now_s
        if not self.is_enabled or self._paid < REQUESTS_A_HEDGE:
            return False
        self._paid -= REQUESTS_A_HEDGE
        self.spent += 1
        return True

    @property
    def gaps(self) -> LatencyWindow:
        """Return the times between two parts of an answer; made for the first of a model."""
        if self._gaps is None:
            self._gaps = LatencyWindow()
        return self._gaps

    def idle_limit_s(self, now_s: float, next_s: float) -> float:
        """Return how long a node that could send may send nothing of an answer whose next part should take `next_s`, as far as is known of the node."""
        gaps = self.gaps
        floor_s = SILENT_NEW_S if gaps.count < FEW_SAMPLES else IDLE_FLOOR_S
        usual_s = max(next_s, gaps.read(now_s)[SILENT_QUANTILE])
        return max(floor_s, IDLE_FACTOR * usual_s)

    def first_byte_limit_s(self, now_s: float, expected_s: float, remaining_s: float) -> float:
        """Return how long after it is sent a request's silence counts as a failure of its node.

        `expected_s` is what this replica should take, network included, 0 when unknown; `remaining_s` what the
        deadline leaves, infinity without one. When that leaves room for another attempt, the limit leaves
        the time that nearly all requests need. When it does not, the limit is what it would be without a
        deadline, perhaps beyond it: one that is too tight is no fault of a node.
        """
        window = self._window
        latencies_s = window.read(now_s)
        slow_s = latencies_s[SILENT_QUANTILE]
        floor_s = SILENT_NEW_S if window.count < FEW_SAMPLES else SILENT_FLOOR_S
        usual_s = max(slow_s, expected_s)
        if usual_s > 0:
            limit_s = max(floor_s, SILENT_FACTOR * slow_s, SILENT_EXPECTED_FACTOR * expected_s)
            limit_s = min(limit_s, max(SILENT_MOST_S, SILENT_MOST_FACTOR * usual_s))
        else:
            limit_s = SILENT_MOST_S
        left_s = remaining_s - latencies_s[HEDGE_QUANTILE]
        if left_s >= limit_s or left_s < max(floor_s, FAIR_FACTOR * usual_s):
            return limit_s
        return left_s
