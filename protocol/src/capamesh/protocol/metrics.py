"""The definition of a metric, and the metrics that routers and nodes have in common. Pure.

Every metric is defined once, here or in the `metrics` of its process, and what exports it takes its name, its help text and
its labels from there. So do `docs/reference/metrics.md`, and the dashboards and alerts in `deploy/observability`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Final

UNITS: Final = ("seconds", "bytes", "rows")
"""The units that the name of a metric may end in."""


class Kind(StrEnum):
    """The kind of a metric, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """The definition of one metric."""

    kind: Kind
    name: str
    """The name without the `_total` that Prometheus puts behind a counter's."""
    help_text: str
    """A full sentence, or several."""
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """The upper bounds of a histogram's buckets, where all processes have the same."""

    @property
    def series(self) -> str:
        """Return the name by which a query asks for it; that of a histogram has `_bucket`, `_sum` or `_count` behind it."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name

    @property
    def unit(self) -> str:
        """Return the unit, which the name ends in; empty for a plain number."""
        last = self.name.rpartition("_")[2]
        return last if last in UNITS else ""


def counter(name: str, help_text: str, *labels: str) -> Metric:
    """Return the definition of a number that only grows while its process runs."""
    return Metric(Kind.COUNTER, name, help_text, labels)


def gauge(name: str, help_text: str, *labels: str) -> Metric:
    """Return the definition of a number as it is now."""
    return Metric(Kind.GAUGE, name, help_text, labels)


def histogram(name: str, help_text: str, *labels: str, bounds: tuple[float, ...] = ()) -> Metric:
    """Return the definition of values that are counted by size."""
    return Metric(Kind.HISTOGRAM, name, help_text, labels, bounds)


def defined_in(module: ModuleType) -> tuple[Metric, ...]:
    """Return the metrics that a module defines, by name."""
    found = [value for value in vars(module).values() if isinstance(value, Metric)]
    return tuple(sorted(found, key=lambda metric: metric.name))


BUILD: Final = gauge(
    "capamesh_build_info",
    "The value is always 1; the labels tell the version that runs, and whether its hot modules are compiled or pure Python.",
    "version",
    "implementation",
)
MEMBERSHIP_LEFT: Final = gauge(
    "capamesh_membership_expires_seconds",
    "The time until the membership of this router or node ends; it is negative once the membership has ended.",
)
MEMBERSHIP_LIFE_LEFT: Final = gauge(
    "capamesh_membership_life_left_ratio",
    "The part of its life that the membership of this router or node still lasts, from 1 to 0; it is negative once the"
    " membership has ended.",
)
CLOCK_BEHIND: Final = gauge(
    "capamesh_clock_behind_seconds",
    "The time by which the clocks of most other members are ahead of the clock here; it is negative where this clock is"
    " ahead of theirs.",
)
DISK_FREE: Final = gauge(
    "capamesh_disk_free_bytes", "The free space of the disk that holds the data folder."
)
DISK: Final = gauge("capamesh_disk_bytes", "The size of the disk that holds the data folder.")
LOOP_DELAY: Final = histogram(
    "capamesh_event_loop_delay_seconds",
    "The time by which the event loop was late, measured every 50 ms.",
    bounds=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 6),
)
"""The delay of the loop. Its buckets go from what a timer is late anyhow to the silence after which a link is given up."""
LOOP_BUSY: Final = histogram(
    "capamesh_event_loop_busy_seconds",
    "The CPU time of the event loop's thread from one measurement of its delay to the next; no callback took more.",
    bounds=(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.25, 0.5, 1, 2, 6),
)  # fmt: skip
"""A loop that always has something to do and is never kept takes a beat, 0.05; close bounds from there to 0.1, the most
that a request may keep it."""
