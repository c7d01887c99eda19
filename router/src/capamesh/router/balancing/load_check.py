"""Checks a node's report of its load: it is never believed far below what this router measures itself. Pure.

A node that always reports that it is idle and answers in a microsecond would draw every request. Its report is
therefore compared with what this router measured there: the time from sending to the answer, less the network's.
Measurements fade, so that an honest node whose load has fallen is believed within seconds; one that lies is measured
again by the very requests that it draws. A node that reports far less than is measured with one answer after the other is
believed nothing that is better than what was measured: half of it would still draw more than its share.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.links.calls import LoadReport
from capamesh.router.fleet.replica import service_us

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica

BELIEVED_PART = 0.5
"""Claims down to this part of what was measured are believed (guess: load may halve between two answers)."""
CREDIBLE_PART = 0.8
"""A replica that reports, on average over its answers, less than this part of what was measured with them is not believed
at all (guess: what is measured is a good day's, so that an honest node tells of as much; a flatterer that stays above gains a quarter)."""
FADE_S = 2.0
"""Time constant with which a measurement loses its force (guess: what a burst of requests lasts)."""
FALLING = 0.5
RISING = 0.125
"""Weights of a newer sample that is below, or above, the average (guess): it should be what the node does on a
good day, so that only a lie is far below it."""


class ReportedLoadCheck:
    """The measurements of this router at the replicas of one model, which reports are checked against."""

    __slots__ = ("_measured",)

    def __init__(self) -> None:
        self._measured: dict[Replica, tuple[float, float, float]] = {}
        """Seconds at the node, network excluded, when that was measured, and the average that was told with the answers."""

    @override
    def __repr__(self) -> str:
        return f"ReportedLoadCheck({len(self._measured)} hosts measured)"

    def measured(
        self, replica: Replica, service_s: float, now_s: float, load: LoadReport
    ) -> LoadReport:
        """Take in how long one answer took, network excluded; return the part of the `load` that came with it to believe."""
        known = self._measured.get(replica)
        service_s = max(0.0, service_s)
        reported_us = load.latency_us or load.queue_us + load.run_us or replica.offer.row_us
        reported_s = reported_us / 1e6
        if known is not None:
            before_s, _, reported_before_s = known
            weight = FALLING if service_s < before_s else RISING
            service_s = before_s + (service_s - before_s) * weight
            reported_s = reported_before_s + (reported_s - reported_before_s) * RISING
        self._measured[replica] = (service_s, now_s, reported_s)
        if load.in_flight >= replica.rif and reported_us >= service_s * 1e6:
            return load
        return self.believable(replica, load, now_s)

    def believable(self, replica: Replica, load: LoadReport, now_s: float) -> LoadReport:
        """Return `load`, with what is too good to be true made as bad as it must at least be."""
        known = self._measured.get(replica)
        if known is None:
            return load
        service_s, at_s, reported_s = known
        age_s = now_s - at_s
        part = BELIEVED_PART if reported_s >= CREDIBLE_PART * service_s else 1.0
        if age_s > 0:
            part *= math.exp(-age_s / FADE_S)
        floor_s = part * service_s
        floor_us = int(floor_s * 1e6)
        in_flight, queued, run_us, latency_us = (
            load.in_flight,
            load.queued,
            load.run_us,
            load.latency_us,
        )
        if service_us(load, replica.offer) < floor_us:
            latency_us, run_us = floor_us, max(run_us, floor_us)
        if in_flight < replica.rif:
            # of this router's own, those at the node and not on the way (Little's law)
            at_node = (
                service_s / (service_s + replica.endpoint.network.trip_s) if service_s else 0.0
            )
            in_flight = max(in_flight, int(part * replica.rif * at_node))
            # these wait, as far as is known: the replica did not say that it runs so many at a time
            queued += in_flight - load.in_flight
        if in_flight == load.in_flight and latency_us == load.latency_us:
            return load
        return LoadReport(
            in_flight,
            queued,
            load.limit,
            load.queue_us,
            run_us,
            load.free_bytes,
            latency_us,
            load.device_in_flight,
            load.bulk_in_flight,
            load.online_queue_us,
            load.limit_rows,
            load.token_ns,
            load.held_tokens,
            load.most_tokens,
            load.kept_tokens,
        )

    def forget_gone(self) -> None:
        """Forget replicas that are replicas no more."""
        for replica in [replica for replica in self._measured if replica.is_gone]:
            del self._measured[replica]
