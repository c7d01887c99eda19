"""Peak-sensitive moving average of each replica's latency, as Finagle and Linkerd keep it. Pure.

A latency above the average replaces it at once; one below draws it down slowly; and it fades while nothing is
seen, so that a replica that was once slow is tried again. Reading decays what is returned, not what is kept: how
often a replica is looked at does not change what is known of it.

A failure is no latency. It counts until something is answered that was sent since, and after a moment one request at a time tries for that: as a
peak of the average it would take a minute to fade (Linkerd's load biaser has it so), though the fault was over in a second.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capamesh.router.fleet.replica import Replica

DECAY_S = 10.0
"""Time constant of the average (Linkerd's default)."""
DEFAULT_RTT_S = 1.0
"""The round trip time of a replica that was never measured (Linkerd's default)."""
PENALTY_S = 5.0
"""The latency of a replica that has failed and answered nothing that was sent since, so that failing fast does not look fast (Linkerd's load biaser)."""
TRIAL_S = 1.0
"""Seconds after its last failure after which such a replica gets one request at a time (guess: nodes are back sooner, and one
request a second that fails is sent again elsewhere)."""


def observe(replica: Replica, latency_s: float, now_s: float) -> None:
    """Take in how long an answer took, or how long one was waited for in vain, unless a failure that came meanwhile counts for it."""
    if now_s - latency_s < replica.failed_s:
        return
    seen_s = replica.peak_seen_s
    cost_s = replica.peak_cost_s
    if seen_s == -math.inf or latency_s > cost_s:
        replica.peak_cost_s = latency_s
    else:
        # as `_kept`, without a call: this is done for every answer
        kept = math.exp((seen_s - now_s) / DECAY_S) if now_s > seen_s else 1.0
        replica.peak_cost_s = latency_s * (1.0 - kept) + cost_s * kept
    replica.peak_seen_s = now_s


def cost_s(replica: Replica, now_s: float) -> float:
    """Return the average as it has decayed until now, in seconds; the default if it was never measured, the penalty after a failure."""
    if replica.failed_s > replica.proved_s:
        return PENALTY_S
    if replica.peak_seen_s == -math.inf:
        return DEFAULT_RTT_S
    return replica.peak_cost_s * _kept(now_s - replica.peak_seen_s)


def load_s(replica: Replica, now_s: float) -> float:
    """Return the cost of one more request there, in seconds: the average for it and all in flight.

    A replica that was never measured costs nothing while nothing is under way there, as with Finagle: it gets one
    request, and no other until the answer is there or the others are as loaded. So does one some time after a failure.
    """
    rif = replica.rif
    if rif == 0:
        if replica.failed_s > replica.proved_s:
            if now_s - replica.failed_s >= TRIAL_S:
                return 0.0
        elif replica.peak_seen_s == -math.inf:
            return 0.0
    return cost_s(replica, now_s) * (rif + 1)


def _kept(elapsed_s: float) -> float:
    """Return how much of the average is left; a clock that was set back keeps it."""
    return math.exp(-elapsed_s / DECAY_S) if elapsed_s > 0 else 1.0
