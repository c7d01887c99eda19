"""Runs of one thread each beside one another, instead of one run of all threads. Pure values.

A lone request is answered soonest by all threads together; many are served fastest by a thread for each, because
threads that share a run wait for one another, and for whatever else takes one of their cores (measured on two
cores: a MiniLM gives 139 rows a second so instead of 128, and under a load that takes 5 % of a core 132 instead
of 117). OpenVINO names the same two its latency and throughput hints, and the latter's runs streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.node.scheduling.service_profile import ServiceProfile


@dataclass(frozen=True, slots=True)
class Streams:
    """The way in which a model runs beside itself."""

    count: int
    """Runs at the same time, at least 2."""
    profile: ServiceProfile
    """The profile of one of them while the others run too."""
    rows: int = 1
    """Rows that are put together at most, in one of them."""

    @property
    def row_s(self) -> float:
        """Seconds for each row when all of them run full batches."""
        return self.profile.seconds_at(self.rows) / self.rows / self.count
