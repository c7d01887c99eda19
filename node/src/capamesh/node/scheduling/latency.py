"""The latencies from arrival to answer, by how many were in flight at arrival, and the delay in the queue: what a probe is told. Pure.

Prequal (Wydrowski et al., NSDI 2024, section 4) reports the median of recent latencies near the present
number in flight; a smoothed mean for each power of two needs no memory of single requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from capamesh.node.scheduling.pending_request import ENDED

if TYPE_CHECKING:
    from capamesh.node.scheduling.pending_request import Batch

SMOOTHING: Final = 0.1
"""Weight of the newest (guess: follows ten requests)."""
MOST_LONGER: Final = 10.0
"""A latency counts for at most so many times what is known (guess), as a run's time does: the process was stopped."""
BUCKETS: Final = 24
"""Powers of two; 8 million in flight is more than any limit."""
OF_LATE_S: Final = 1.0
"""The time constant of the delay in the queue (guess: whoever goes by it acts once a second)."""
PAST_S: Final = 2.0
"""Nothing is left of a delay after so many seconds (guess: twice that)."""


class LatencyByLoad:
    """Smoothed latencies by load."""

    def __init__(self) -> None:
        self._seconds = [0.0] * BUCKETS

    def answered(self, in_flight: int, seconds: float) -> None:
        """A request that came when `in_flight` were in flight, itself included, was answered."""
        bucket = in_flight.bit_length()
        known = self._seconds[bucket]
        if known:
            seconds = known + SMOOTHING * (min(seconds, MOST_LONGER * known) - known)
        self._seconds[bucket] = seconds

    def estimate_s(self, in_flight: int) -> float:
        """Return what a request that comes at this load should expect; 0 when nothing is known."""
        bucket = in_flight.bit_length()
        known = self._seconds[bucket]
        if known:
            return known
        for distance in range(1, BUCKETS):
            for near in (bucket - distance, bucket + distance):
                if 0 <= near < BUCKETS and self._seconds[near]:
                    return self._seconds[near]
        return 0.0


class QueueDelay:
    """The time for which requests have queued of late: the longest of each run, averaged by time. Any `now_s` is one clock's."""

    __slots__ = ("_seconds", "_told_s", "seen_s")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._told_s = -PAST_S
        self.seen_s = 0.0
        """The time now, as it was last told."""

    def ran(self, batch: Batch, now_s: float) -> None:
        """Take in how long those of a batch that has run had queued for it, as far as people wait for them."""
        self.seen_s = now_s
        longest_s = -1.0
        for request in batch.requests:
            if not request.is_bulk and not request.steps and request.state is not ENDED:
                longest_s = max(longest_s, batch.started_s - request.arrived_s)
        if longest_s >= 0.0:
            self.observe(longest_s, now_s)

    def observe(self, longest_s: float, now_s: float) -> None:
        """Take in the longest time for which a request of one run had queued."""
        passed_s = now_s - self._told_s
        self._told_s = now_s
        if 0.0 <= passed_s < PAST_S:
            self._seconds += (longest_s - self._seconds) * (passed_s / (passed_s + OF_LATE_S))
        else:  # nothing was told of late, or the clock was set back
            self._seconds = longest_s

    def seconds(self) -> float:
        """Return the delay; it falls to 0 while no request comes."""
        passed_s = self.seen_s - self._told_s
        return self._seconds * (1.0 - passed_s / PAST_S) if 0.0 <= passed_s < PAST_S else 0.0
