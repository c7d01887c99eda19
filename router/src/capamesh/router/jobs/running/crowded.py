"""The nodes at which people wait longer than usual: they are given few calls of jobs until they do not. Pure.

A node lets people's requests pass those of jobs and cuts long runs by itself; what waits there is in its way all the same. What a
node tells counts for the calls that are sent to it, and for no others: one that lies has fewer calls, and nobody else has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from capamesh.router.jobs.running.pace import CALLS_A_NODE

if TYPE_CHECKING:
    from capamesh.router.jobs.running.nodes import Crowd

CALM_S: Final = 60.0
"""The time constant over which the delays without jobs are averaged, which others are held against."""
DELAY_TIMES: Final = 2.0
"""People wait longer than usual when the delay is so many times that."""
LEAST_DELAY_S: Final = 0.001
"""A shorter usual delay counts as that: twice nothing is nothing (guess: a wait that nobody sees)."""


class CrowdedNodes:
    """The delays that the nodes of one model tell of people's requests. Every `now_s` is on a clock that never goes back."""

    def __init__(self) -> None:
        self._usual: dict[str, tuple[float, float]] = {}
        """The usual delay of each node without jobs, and the time when it was last heard."""
        self._crowded: frozenset[str] = frozenset()

    @property
    def is_any(self) -> bool:
        """Return whether a node is crowded."""
        return bool(self._crowded)

    def look(self, nodes: Collection[str], crowds: Mapping[str, Crowd], now_s: float) -> None:
        """Take in what `crowds` tells of some of the nodes, and forget those that have left."""
        self._usual = {node: usual for node, usual in self._usual.items() if node in nodes}
        crowded: list[str] = []
        for node in nodes:
            crowd = crowds.get(node)
            if crowd is None:
                continue
            if crowd.is_calm:
                self._take_calm(node, crowd.delay_s, now_s)
            elif crowd.delay_s >= self._crowded_from_s(node):
                crowded.append(node)
        self._crowded = frozenset(crowded)

    def full(self, in_flight: Mapping[str, int]) -> frozenset[str]:
        """Return the crowded nodes that have all the calls they may have, by how many each has."""
        return frozenset(node for node in self._crowded if in_flight.get(node, 0) >= CALLS_A_NODE)

    def room(self, nodes: Collection[str], in_flight: Mapping[str, int]) -> float:
        """Return how many more calls `nodes` may have together; infinity while one of them is not crowded."""
        if not self._crowded.issuperset(nodes):
            return math.inf
        return sum(max(0, CALLS_A_NODE - in_flight.get(node, 0)) for node in nodes)

    def _crowded_from_s(self, node: str) -> float:
        """Return the delay from which on a node is crowded; infinity: its usual one is not known."""
        usual = self._usual.get(node)
        return math.inf if usual is None else DELAY_TIMES * max(usual[0], LEAST_DELAY_S)

    def _take_calm(self, node: str, delay_s: float, now_s: float) -> None:
        usual_s, heard_s = self._usual.get(node, (delay_s, now_s))
        weight = 1.0 - math.exp(-(now_s - heard_s) / CALM_S)
        self._usual[node] = usual_s + weight * (delay_s - usual_s), now_s
