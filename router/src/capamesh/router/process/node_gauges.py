"""The gauges and counters of each node, summed up from its links whenever they are asked for. Does no IO.

A node is named by its peer id. Endpoints come and go with links while what a node has done must never count down: so what
each endpoint has counted since the last look is added to what its node has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from capamesh.router.fleet.lost_nodes import LostNodes
from capamesh.router.fleet.naming import name_of
from capamesh.router.telemetry import MOST_NODES, BoundedLabel, metrics
from capamesh.router.telemetry.totals import OTHERS

if TYPE_CHECKING:
    from capamesh.protocol.ids import PeerId
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.telemetry import Telemetry

USABLE: Final = "usable"
UNLINKED: Final = "unlinked"
DRAINING: Final = "draining"
SUSPECTED: Final = "suspected"
CIRCUIT_OPEN: Final = "circuit_open"
LOST: Final = "lost"
STATES: Final = (USABLE, CIRCUIT_OPEN, SUSPECTED, DRAINING, UNLINKED)
"""The states of a node, the best first: a node is in the state of its best link."""


class NodeGauges:
    """The figures of the nodes of one router."""

    def __init__(
        self,
        fleet: FleetView,
        clock: Callable[[], float],
        most: int = MOST_NODES,
        *,
        lost: LostNodes | None = None,
    ) -> None:
        """`clock` is that of the nodes' healths, in seconds; `most` nodes have series of their own."""
        self._fleet = fleet
        self._lost = LostNodes() if lost is None else lost
        self._clock = clock
        self._label = BoundedLabel(most)
        self._seen: dict[Endpoint, tuple[int, dict[str, int]]] = {}
        """The counts of each endpoint at the last look: its answers, and its errors by code."""
        self._answered: Counter[str] = Counter()
        self._failed: Counter[tuple[str, str]] = Counter()

    def watch(self, telemetry: Telemetry) -> None:
        """Export the figures."""
        watch = telemetry.watch_each
        watch(metrics.NODES, self._states)
        watch(metrics.NODE_USABLE, self._usable)
        watch(metrics.NODE_LOST, self._lost_since)
        watch(metrics.NODE_LINKS, lambda: self._each(lambda each: each.link is not None))
        watch(metrics.NODE_IN_FLIGHT, lambda: self._each(lambda each: each.rif))
        watch(metrics.NODE_BULK_ROWS, lambda: self._each(self._bulk_rows))
        watch(metrics.NODE_ONLINE_QUEUE, self._online_queues)
        watch(metrics.NODE_ROUND_TRIP, self._round_trips)
        watch(metrics.NODE_CIRCUITS, self._circuits)
        watch(metrics.NODE_ANSWERED, self._all_answered)
        watch(metrics.NODE_FAILED, self._all_failed)

    # as it is now

    def _states(self) -> Iterator[tuple[tuple[str], float]]:
        for state in STATES:
            yield (state,), 0  # each is told of, also where no node is in it
        for peer in list(self._fleet.adverts):
            yield (self.state(peer),), 1
        yield (LOST,), len(self._lost)

    def state(self, peer: PeerId) -> str:
        """Return the state of a node."""
        found = [self._state(endpoint) for endpoint in self._fleet.endpoints_of(peer)]
        return min(found, key=STATES.index, default=UNLINKED)

    def _state(self, endpoint: Endpoint) -> str:
        if endpoint.is_draining:
            return DRAINING
        if not endpoint.is_usable:
            return UNLINKED
        if not endpoint.health.may_send(self._clock()):
            return CIRCUIT_OPEN
        return SUSPECTED if endpoint.is_suspected else USABLE

    def _peers(self) -> Iterator[tuple[str, PeerId]]:
        """Yield each node with its label, which several may share."""
        adverts = self._fleet.adverts
        self._label.keep(adverts)
        for peer in list(adverts):
            yield self._label.of(peer), peer

    def _nodes(self) -> Iterator[tuple[str, list[Endpoint]]]:
        for label, peer in self._peers():
            yield label, self._fleet.endpoints_of(peer)

    def _each(self, value: Callable[[Endpoint], float]) -> Iterator[tuple[tuple[str], float]]:
        for label, endpoints in self._nodes():
            yield (label,), sum(map(value, endpoints))

    def _bulk_rows(self, endpoint: Endpoint) -> int:
        return sum(each.load.bulk_in_flight for each in self._fleet.replicas_at(endpoint))

    def _online_queues(self) -> Iterator[tuple[tuple[str], float]]:
        for label, endpoints in self._nodes():
            replicas = [each for one in endpoints for each in self._fleet.replicas_at(one)]
            if label != OTHERS:
                longest_us = max((each.load.online_queue_us for each in replicas), default=0)
                yield (label,), longest_us / 1e6

    def _usable(self) -> Iterator[tuple[tuple[str, str], float]]:
        for label, peer in self._peers():
            name = "" if label == OTHERS else name_of(self._fleet.adverts, peer)
            yield (label, name), self.state(peer) == USABLE

    def _lost_since(self) -> Iterator[tuple[tuple[str, str], float]]:
        for node in self._lost.nodes()[:MOST_NODES]:
            yield (node.peer, node.name), node.lost_at_ms / 1000

    def _round_trips(self) -> Iterator[tuple[tuple[str], float]]:
        for label, endpoints in self._nodes():
            measured = [each.network.rtt_s for each in endpoints if each.network.rtt_s]
            if label != OTHERS:
                yield (label,), min(measured, default=0.0)

    def _circuits(self) -> Iterator[tuple[tuple[str, str], float]]:
        now_s = self._clock()
        for label, endpoints in self._nodes():
            for endpoint in endpoints:
                yield (label, str(endpoint.health.state(now_s))), 1
                for replica in self._fleet.replicas_at(endpoint):
                    yield (label, str(replica.health.state(now_s))), 1

    # since the start

    def _all_answered(self) -> Iterable[tuple[tuple[str], float]]:
        self._look()
        return [((label,), count) for label, count in self._answered.items()]

    def _all_failed(self) -> Iterable[tuple[tuple[str, str], float]]:
        self._look()
        return list(self._failed.items())

    def _look(self) -> None:
        """Add what endpoints have counted since the last look, and forget nodes that are gone."""
        before, self._seen = self._seen, {}
        labels: set[str] = {OTHERS}
        for label, endpoints in self._nodes():
            labels.add(label)
            self._answered[label] += 0  # a node that has answered nothing yet is told of
            for endpoint in endpoints:
                answered, errors = before.get(endpoint, (0, {}))
                self._answered[label] += endpoint.answered - answered
                for code, count in endpoint.errors.items():
                    self._failed[label, code] += count - errors.get(code, 0)
                self._seen[endpoint] = endpoint.answered, dict(endpoint.errors)
        for gone in self._answered.keys() - labels:
            del self._answered[gone]
        for key in [key for key in self._failed if key[0] not in labels]:
            del self._failed[key]
