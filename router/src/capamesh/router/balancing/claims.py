"""How far a node's word about its load is believed: never far below what this router sees itself. Pure.

A node that always says that it is idle and answers in a microsecond would draw every request. What it tells is
therefore held against what this router measured there: the time from sending to the answer, less the network's.
What was measured fades, so that an honest node whose load has fallen is believed within seconds; one that lies
is measured again by the very requests that it draws.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.router.balancing.hosts import Host

BELIEVED_PART = 0.5
"""Claims down to this part of what was measured are believed (guess: load may halve between two answers)."""
FADE_S = 2.0
"""Time constant with which a measurement loses its force (guess: what a burst of requests lasts)."""
FALLING = 0.5
RISING = 0.125
"""Weights of a newer sample that is below, or above, the average (guess): it should be what the node does on a
good day, so that only a lie is far below it."""


class Claims:
    """What this router measured at the hosts of one model."""

    __slots__ = ("_measured",)

    def __init__(self) -> None:
        self._measured: dict[Host, tuple[float, float]] = {}
        """Seconds at the node, network excluded, and when that was measured."""

    def __repr__(self) -> str:
        return f"Claims({len(self._measured)} hosts measured)"

    def measured(self, host: Host, service_s: float, now_s: float) -> None:
        """Take in how long one answer took, network excluded."""
        known = self._measured.get(host)
        service_s = max(0.0, service_s)
        if known is not None:
            before_s = known[0]
            weight = FALLING if service_s < before_s else RISING
            service_s = before_s + (service_s - before_s) * weight
        self._measured[host] = (service_s, now_s)

    def believable(self, host: Host, load: LoadReport, now_s: float) -> LoadReport:
        """Return `load`, with what is too good to be true made as bad as it must at least be."""
        known = self._measured.get(host)
        if known is None:
            return load
        service_s, at_s = known
        age_s = now_s - at_s
        part = BELIEVED_PART * math.exp(-age_s / FADE_S) if age_s > 0 else BELIEVED_PART
        floor_s = part * service_s
        floor_us = int(floor_s * 1e6)
        told_us = load.latency_us or load.queue_us + load.run_us or host.offer.row_us
        if told_us < floor_us:
            load = load._replace(latency_us=floor_us, run_us=max(load.run_us, floor_us))
        if load.in_flight < host.rif:
            # of this router's own, those at the node and not on the way (Little's law)
            at_node = service_s / (service_s + host.candidate.network.rtt_s) if service_s else 0.0
            floor = int(part * host.rif * at_node)
            if load.in_flight < floor:
                load = load._replace(in_flight=floor)
        return load

    def forget_gone(self) -> None:
        """Forget hosts that are hosts no more."""
        for host in [host for host in self._measured if host.is_gone]:
            del self._measured[host]
