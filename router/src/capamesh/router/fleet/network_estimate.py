"""The distance of an endpoint: round trip and bandwidth, as measured on its link. Pure."""

from __future__ import annotations

import math

from typing_extensions import override

WINDOW_S = 30.0
"""The round trip is the least of this window and the one before it (guess: between BBR's 10 s and the 300 s of Linux's TCP)."""
TRIP_SMOOTHING = 0.125
"""Weight of the newest sample (RFC 6298 section 2)."""
RATE_SMOOTHING = 0.25
"""The weight of the newest rate (guess: bodies that are large enough to say something are rare)."""
MIN_RATED_BYTES = 128 * 1024
"""Smaller bodies say nothing of bandwidth: they are one burst of packets (guess)."""


class NetworkEstimate:
    """The round trip time and the bytes a second of one link. Every `now_s` is the caller's monotonic clock in seconds.

    What a sample takes beyond the least of late is queueing in the event loops of both sides, as with BBR and Swift: it is
    over when the load is, and must not be taken off the deadlines of those who come then.
    """

    __slots__ = ("_before_s", "_least_s", "_turn_s", "bytes_per_s", "rtt_s", "trip_s")

    def __init__(self) -> None:
        self.rtt_s = 0.0
        """The round trip time; 0: not measured."""
        self.trip_s = 0.0
        """The time that a message and its answer take of late, queueing included: none of it is spent on the request; 0: not measured."""
        self.bytes_per_s = 0.0
        """The bytes a second; 0: not measured."""
        self._least_s = self._before_s = math.inf
        """The least of this window, and of the one before it."""
        self._turn_s = -math.inf
        """The time when this window ends."""

    @override
    def __repr__(self) -> str:
        return f"NetworkEstimate({self.rtt_s * 1e3:.1f} ms, {self.bytes_per_s / 1e6:.1f} MB/s)"

    def round_trip(self, seconds: float, now_s: float) -> None:
        """Take in the time that a probe took; what is not above 0 was never measured and is left out."""
        if seconds <= 0:
            return
        self.trip_s += (seconds - self.trip_s) * TRIP_SMOOTHING if self.trip_s else seconds
        if now_s >= self._turn_s:
            self._before_s, self._least_s = self._least_s, math.inf
            self._turn_s = now_s + WINDOW_S
        self._least_s = min(self._least_s, seconds)
        self.rtt_s = min(self._least_s, self._before_s)

    def transferred(self, size_bytes: int, elapsed_s: float, at_node_s: float) -> float:
        """Take in an answer: bytes both ways, from sent to answered, and how long it was at the node.

        Return how long these bytes are on the way and in the event loops of both sides.
        """
        bytes_per_s, trip_s = self.bytes_per_s, self.trip_s
        if size_bytes >= MIN_RATED_BYTES and (seconds := elapsed_s - at_node_s - trip_s) > 0:
            rate = size_bytes / seconds
            bytes_per_s += (rate - bytes_per_s) * RATE_SMOOTHING if bytes_per_s else rate
            self.bytes_per_s = bytes_per_s
        return trip_s + size_bytes / bytes_per_s if bytes_per_s else trip_s

    def budget_ms(self, left_ms: int) -> int:
        """Return how much of the `left_ms` milliseconds are left when a request arrives there: half a trip less, at least 1."""
        return max(1, left_ms - int(self.rtt_s * 500))

    def transfer_s(self, size_bytes: int) -> float:
        """Return how long `size_bytes` and their answer are on the way."""
        if self.bytes_per_s:
            return self.rtt_s + size_bytes / self.bytes_per_s
        return self.rtt_s
