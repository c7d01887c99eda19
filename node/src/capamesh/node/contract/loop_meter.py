"""Counts how late an event loop was and what it took, as its watch tells. Pure."""

from __future__ import annotations

from capamesh.node.contract.buckets import Buckets
from capamesh.protocol.metrics import LOOP_BUSY, LOOP_DELAY


class LoopMeter:
    """One loop's counts since its process started."""

    def __init__(self) -> None:
        self._delay_s = Buckets(LOOP_DELAY.bounds)
        self._busy_s = Buckets(LOOP_BUSY.bounds)

    def beat(self, late_s: float, busy_s: float) -> None:
        """Count a beat; see `LoopWatch`."""
        self._delay_s.add(late_s)
        self._busy_s.add(busy_s)

    def snapshot(self) -> dict[str, object]:
        """Return all counts as plain values; see `capamesh.node.agent.metrics.totals`."""
        return {"delay_s": self._delay_s.snapshot(), "busy_s": self._busy_s.snapshot()}
