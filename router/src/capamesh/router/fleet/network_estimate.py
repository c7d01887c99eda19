"""The distance of an endpoint: round trip and bandwidth, as measured on its link. Pure."""

from __future__ import annotations

from typing_extensions import override

RTT_SMOOTHING = 0.125
"""Weight of the newest sample (RFC 6298 section 2)."""
RATE_SMOOTHING = 0.25
"""The weight of the newest rate (guess: bodies that are large enough to say something are rare)."""
MIN_RATED_BYTES = 128 * 1024
"""Smaller bodies say nothing of bandwidth: they are one burst of packets (guess)."""


class NetworkEstimate:
    """Smoothed round trip time and bytes a second of one link."""

    __slots__ = ("bytes_per_s", "rtt_s")

    def __init__(self) -> None:
        self.rtt_s = 0.0
        """The round trip time; 0: not measured."""
        self.bytes_per_s = 0.0
        """The bytes a second; 0: not measured."""

    @override
    def __repr__(self) -> str:
        return f"NetworkEstimate({self.rtt_s * 1e3:.1f} ms, {self.bytes_per_s / 1e6:.1f} MB/s)"

    def round_trip(self, seconds: float) -> None:
        """Take in the time that a probe took; what is not above 0 was never measured and is left out."""
        if seconds <= 0:
            return
        self.rtt_s += (seconds - self.rtt_s) * RTT_SMOOTHING if self.rtt_s else seconds

    def transferred(self, size_bytes: int, elapsed_s: float, at_node_s: float) -> float:
        """Take in an answer: bytes both ways, from sent to answered, and how long it was at the node.

        Return how long these bytes are on the way: what `transfer_s` returns from now on.
        """
        bytes_per_s, rtt_s = self.bytes_per_s, self.rtt_s
        if size_bytes >= MIN_RATED_BYTES and (seconds := elapsed_s - at_node_s - rtt_s) > 0:
            rate = size_bytes / seconds
            bytes_per_s += (rate - bytes_per_s) * RATE_SMOOTHING if bytes_per_s else rate
            self.bytes_per_s = bytes_per_s
        return rtt_s + size_bytes / bytes_per_s if bytes_per_s else rtt_s

    def budget_ms(self, left_ms: int) -> int:
        """Return how much of the `left_ms` milliseconds are left when a request arrives there: half a trip less, at least 1."""
        return max(1, left_ms - int(self.rtt_s * 500))

    def transfer_s(self, size_bytes: int) -> float:
        """Return how long `size_bytes` and their answer are on the way."""
        if self.bytes_per_s:
            return self.rtt_s + size_bytes / self.bytes_per_s
        return self.rtt_s
