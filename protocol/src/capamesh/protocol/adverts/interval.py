"""The interval at which a node advertises, by the number of nodes. Pure.

Every router hears every advert, so a router's cost of hearing of its fleet grows with the fleet's adverts a second.
Those are kept at what a router can afford, whatever the fleet's size, up to an interval that is as long as one can
wait for dead nodes to be forgotten (`docs/explanation/scale.md`).
"""

from __future__ import annotations

from typing import Final

from typing_extensions import override

MIN_INTERVAL_S: Final = 10
"""The interval of up to 100 nodes: a dead one is forgotten after half a minute (the design's)."""
MAX_INTERVAL_S: Final = 120
"""The dead then stay for seven minutes. Reached at 1,200 nodes, beyond which routers spend more."""
FLEET_ADVERTS_PER_S: Final = 10
"""The adverts of all nodes together: 1 Mbit/s and 4 % of a core among five routers (measured: benchmarks/scale.py)."""
NEWCOMER_ADVERTS_PER_S: Final = 100
"""The adverts of all nodes together when they introduce themselves to a router that is new: a third of what fills the core
of its sidecar (measured: benchmarks/scale.py)."""
REPORTED_LATELY_S: Final = 600.0
"""A router's count of nodes holds for this long (guess: longer than a restart and the next count take)."""


def advert_interval_s(nodes: int) -> int:
    """Return how often each of `nodes` nodes advertises, in whole seconds: not each join changes what all say."""
    return min(MAX_INTERVAL_S, max(MIN_INTERVAL_S, -(-nodes // FLEET_ADVERTS_PER_S)))


def newcomer_spread_s(nodes: int) -> float:
    """Return over how long `nodes` nodes spread their adverts when a router is new; an interval at most."""
    return min(advert_interval_s(nodes), nodes / NEWCOMER_ADVERTS_PER_S)


class FleetSize:
    """The largest number of nodes that any router told lately.

    Not the latest number of each: a router that has just started knows few nodes, and if it was the only one,
    the whole fleet would advertise to it at once. Remembers two numbers, whoever tells how many, and
    forgets one after half of `REPORTED_LATELY_S` to the whole of it.
    """

    def __init__(self) -> None:
        self._now = 0
        self._before = 0
        self._turns_s = float("-inf")

    def reported(self, nodes: int, now_s: float) -> None:
        """A router has `nodes` nodes in its view."""
        self._pass_until(now_s)
        self._now = max(self._now, nodes)

    def at(self, now_s: float) -> int:
        """Return the largest number told lately; 0 when none was."""
        self._pass_until(now_s)
        return max(self._now, self._before)

    def _pass_until(self, now_s: float) -> None:
        if now_s < self._turns_s:
            return
        self._before, self._now = self._now, 0
        self._turns_s += REPORTED_LATELY_S / 2
        if now_s >= self._turns_s:  # nobody asked or told for so long
            self._before = 0
            self._turns_s = now_s + REPORTED_LATELY_S / 2

    @override
    def __repr__(self) -> str:
        return f"FleetSize({max(self._now, self._before)} nodes)"
