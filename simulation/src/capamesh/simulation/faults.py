"""The faults of a scenario and the antagonists of its nodes, each at its time. Pure, seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, assert_never

from capamesh.simulation.scenario import Antagonist, Fault, FaultKind, Rhythm

if TYPE_CHECKING:
    from capamesh.simulation.arrivals import Arrivals
    from capamesh.simulation.events import Events
    from capamesh.simulation.network import Network
    from capamesh.simulation.node import SimNode


class Faults:
    """Puts all that goes wrong before `until_s` into the events."""

    def __init__(
        self,
        events: Events,
        nodes: Sequence[SimNode],
        network: Network,
        arrivals: Sequence[Arrivals],
        *,
        until_s: float,
    ) -> None:
        self._events = events
        self._nodes = nodes
        self._network = network
        self._arrivals = arrivals
        self._until_s = until_s

    def plan(self, faults: Iterable[Fault]) -> None:
        """Let `faults` happen in time."""
        for fault in faults:
            if fault.kind in {FaultKind.PARTITION, FaultKind.SURGE}:
                self._at(fault, fault.at_s, None)
                continue
            nodes = self._nodes if fault.nodes == "all" else [self._nodes[at] for at in fault.nodes]
            for turn, node in enumerate(nodes):
                self._at(fault, fault.at_s + turn * fault.stagger_s, node)

    def plague(self, node: SimNode, antagonist: Antagonist, rng: random.Random) -> None:
        """Give `node` its antagonist, if it is one of those that have one; at first as if it had long been so."""
        if rng.random() >= antagonist.nodes_share or not antagonist.share:
            return
        is_there = rng.random() < antagonist.share
        mean_s = _mean_s(antagonist, is_there=is_there)
        left = rng.random() if antagonist.rhythm is Rhythm.SQUARE else rng.expovariate(1.0)
        self._phase(node, antagonist, rng, is_there, left * mean_s)

    def _turn(
        self, node: SimNode, antagonist: Antagonist, rng: random.Random, is_there: bool
    ) -> None:
        mean_s = _mean_s(antagonist, is_there=is_there)
        whole = 1.0 if antagonist.rhythm is Rhythm.SQUARE else rng.expovariate(1.0)
        self._phase(node, antagonist, rng, is_there, whole * mean_s)

    def _phase(
        self,
        node: SimNode,
        antagonist: Antagonist,
        rng: random.Random,
        is_there: bool,
        for_s: float,
    ) -> None:
        node.antagonist_factor = antagonist.factor if is_there else 1.0
        until_s = self._events.now_s + for_s
        if until_s < self._until_s and antagonist.share < 1:
            self._events.at(until_s, self._turn, node, antagonist, rng, not is_there)

    def _at(self, fault: Fault, at_s: float, node: SimNode | None) -> None:
        if at_s < self._until_s:
            self._events.at(at_s, self._begin, fault, node)

    def _begin(self, fault: Fault, node: SimNode | None) -> None:
        if node is None:
            self._begin_everywhere(fault)
        else:
            self._begin_at(fault, node)
        if math.isfinite(fault.for_s) and fault.kind is not FaultKind.RESTART:
            self._events.at(self._events.now_s + fault.for_s, self._end, fault, node)

    def _begin_everywhere(self, fault: Fault) -> None:
        if fault.kind is FaultKind.PARTITION:
            self._network.cut(*fault.between)
            return
        for arrivals in self._arrivals:
            arrivals.factor = fault.factor

    def _begin_at(self, fault: Fault, node: SimNode) -> None:
        match fault.kind:
            case FaultKind.SLOW:
                node.slow_factor = fault.factor
            case FaultKind.ERRORS:
                node.error_share = fault.share
            case FaultKind.FAST_ERRORS:
                node.fast_error_share = fault.share
            case FaultKind.BLAMES:
                node.blame_share = fault.share
            case FaultKind.SILENT:
                node.silent_share = fault.share
            case FaultKind.LIAR:
                node.is_liar = True
            case FaultKind.FREEZE:
                node.freeze()
            case FaultKind.KILL:
                node.kill()
            case FaultKind.RESTART:
                node.drain(partial(self._restart, fault, node))
            case FaultKind.PARTITION | FaultKind.SURGE:
                self._begin_everywhere(fault)
            case _:
                assert_never(fault.kind)

    def _restart(self, fault: Fault, node: SimNode) -> None:
        node.kill()
        self._events.at(self._events.now_s + fault.for_s, node.start)

    def _end(self, fault: Fault, node: SimNode | None) -> None:
        if node is None:
            if fault.kind is FaultKind.PARTITION:
                self._network.heal(*fault.between)
            for arrivals in self._arrivals if fault.kind is FaultKind.SURGE else ():
                arrivals.factor = 1.0
            return
        match fault.kind:
            case FaultKind.FREEZE:
                node.thaw()
            case FaultKind.KILL:
                node.start()
            case _:
                node.recover(fault.kind)


def _mean_s(antagonist: Antagonist, *, is_there: bool) -> float:
    share = antagonist.share if is_there else 1 - antagonist.share
    return antagonist.period_s * share
