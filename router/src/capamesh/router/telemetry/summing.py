"""Adds up the metrics of several processes of one router, in Prometheus' text form. Pure.

Counters and histograms add up. So do gauges of what a process holds for itself, such as requests in flight or memory. A
gauge of the fleet or of the machine is the same thing seen by each process: the smallest is taken where it tells of what
can be used, and else that of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from capamesh.protocol.metrics import BUILD, CLOCK_BEHIND, DISK, DISK_FREE, MEMBERSHIP_LEFT
from capamesh.router.telemetry import metrics

LEAST: Final = frozenset(
    {metrics.CERTIFICATE_EXPIRY.name, metrics.MODEL_NODES_USABLE.name, metrics.NODE_USABLE.name}
)
"""The gauges of which the smallest holds: what one of the processes cannot use, the router cannot rely on."""
SAME: Final = frozenset(
    {
        "process_start_time_seconds",
        "process_max_fds",
        "python_info",
        *(
            metric.name
            for metric in (
                BUILD,
                CLOCK_BEHIND,
                DISK,
                DISK_FREE,
                MEMBERSHIP_LEFT,
                metrics.CERTIFICATE_REFUSED,
                metrics.CONTESTED,
                metrics.JOBS,
                metrics.MEMBERS_REFUSED,
                metrics.MODEL_NODES,
                metrics.MODEL_NODES_MISSING,
                metrics.NODE_LOST,
                metrics.NODES,
                metrics.NODE_ROUND_TRIP,
                metrics.ON_TRIAL,
            )
        ),
    }
)
"""The gauges of which the first process's holds: each sees the same."""
_CREATED: Final = "_created"


class Sum:
    """Metrics that have been added up; made of nothing, it grows by `add`."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[bytes, bool]] = {}
        """The comment lines of each family, and whether it only counts up."""
        self._series: dict[str, dict[bytes, float]] = {}

    def add(self, text: bytes) -> None:
        """Add the metrics of one more process."""
        self._take(text, is_all=True)

    def add_counts(self, text: bytes) -> None:
        """Add what a process has counted that is gone: its counters and histograms."""
        self._take(text, is_all=False)

    def pieces(self) -> Iterator[bytes]:
        """Yield the text, a family at a time."""
        for name, (comments, _) in self._families.items():
            lines = [
                b"%s %s\n" % (key, _number(value)) for key, value in self._series[name].items()
            ]
            yield comments + b"".join(lines)

    def text(self) -> bytes:
        """Return the text."""
        return b"".join(self.pieces())

    def _take(self, text: bytes, *, is_all: bool) -> None:
        help_line = b""
        name, is_count = "", False
        series: dict[bytes, float] = {}
        for line in text.splitlines():
            if line.startswith(b"# HELP "):
                help_line = line
            elif line.startswith(b"# TYPE "):
                _, _, raw, kind = line.split(b" ", 3)
                name, is_count = raw.decode(), kind in {b"counter", b"histogram"}
                if is_all or is_count:
                    comments = b"%s\n%s\n" % (help_line, line)
                    self._families.setdefault(name, (comments, is_count))
                    series = self._series.setdefault(name, {})
            elif line and (is_all or is_count):
                key, _, value = line.rpartition(b" ")
                series[key] = _joined(name, series.get(key), float(value), is_count=is_count)


def _joined(name: str, known: float | None, value: float, *, is_count: bool) -> float:
    if known is None:
        return value
    if not is_count:
        if name in LEAST:
            return min(known, value)
        if name in SAME or name.endswith(_CREATED):
            return known
    return known + value


def _number(value: float) -> bytes:
    if value != value:  # noqa: PLR0124 - a NaN
        return b"NaN"
    if value in {float("inf"), float("-inf")}:
        return b"+Inf" if value > 0 else b"-Inf"
    return repr(value).encode()
