"""The events at one model, counted. Pure."""

from __future__ import annotations

from typing import Final

from capamesh.node.contract.buckets import Buckets

ROW_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECOND_BOUNDS: Final = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30,
)  # fmt: skip
"""The bounds of times, from a tiny model's run to the default deadline, in the usual 1-2-5 steps."""


class Meter:
    """One model's counts since its worker started."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {"ok": 0}
        """The requests by what they were answered with: "ok" or an error's code."""
        self.dropped: dict[str, int] = {}
        """Accepted and never run, by reason."""
        self.rows = 0
        self.batches = 0
        self.batch_rows = Buckets(ROW_BOUNDS)
        self.queue_s = Buckets(SECOND_BOUNDS)
        self.run_s = Buckets(SECOND_BOUNDS)

    def answered(self, code: str, count: int = 1) -> None:
        """Requests were answered."""
        self.requests[code] = self.requests.get(code, 0) + count

    def drop(self, reason: str) -> None:
        """A request that was queued will not run."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def ran(self, rows: int, seconds: float) -> None:
        """A batch has run."""
        self.batches += 1
        self.rows += rows
        self.batch_rows.add(rows)
        self.run_s.add(seconds)

    def snapshot(self) -> dict[str, object]:
        """Return all counts as plain values."""
        return {
            "requests": dict(self.requests),
            "dropped": dict(self.dropped),
            "rows": self.rows,
            "batches": self.batches,
            "batch_rows": self.batch_rows.snapshot(),
            "queue_s": self.queue_s.snapshot(),
            "run_s": self.run_s.snapshot(),
        }
