"""The gauges of a router, read from its parts whenever they are asked for. Does no IO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from capamesh.protocol import implementation
from capamesh.protocol.metrics import (
    BUILD,
    CLOCK_BEHIND,
    DISK,
    DISK_FREE,
    MEMBERSHIP_LEFT,
    MEMBERSHIP_LIFE_LEFT,
)
from capamesh.protocol.network_clock import clock_fields
from capamesh.router.telemetry import metrics

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, PeerId
    from capamesh.protocol.links.receive_budget import ReceiveBudget
    from capamesh.protocol.membership_life import LifeFigures
    from capamesh.router.access.quotas import Quotas
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.prober import Prober
    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.hearing import Hearing
    from capamesh.router.fleet.links import LinkPool
    from capamesh.router.fleet.lost_nodes import LostNodes
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.http.open_requests import OpenRequests
    from capamesh.router.ownership.owners import Owners
    from capamesh.router.requests.answer_cache import AnswerCache
    from capamesh.router.requests.repeated_calls import RepeatedCalls
    from capamesh.router.telemetry import Telemetry


class DiskUse(Protocol):
    """The use of a disk, in bytes."""

    @property
    def total(self) -> int:
        """Return its size."""
        ...

    @property
    def free(self) -> int:
        """Return what is free."""
        ...


def watch_process(telemetry: Telemetry, version: str, disk: Callable[[], DiskUse]) -> None:
    """Add what is to be read of the program, and of the disk that it writes to."""
    telemetry.watch_each(BUILD, lambda: [((version, implementation.RUNNING), 1)])
    telemetry.watch(DISK_FREE, lambda: disk().free)
    telemetry.watch(DISK, lambda: disk().total)


def watch_fleet(
    telemetry: Telemetry,
    fleet: FleetView,
    pool: LinkPool,
    owners: Owners,
    lost: LostNodes,
    clock: Callable[[], float],
) -> None:
    """Add what is to be read of the models that nodes host, and of nodes as a whole."""

    def hosting() -> Iterator[tuple[tuple[str], float]]:
        for model in fleet.models():
            yield from _each_once(model, _hosts(fleet, model))

    def usable() -> Iterator[tuple[tuple[str], float]]:
        for model in fleet.models():
            yield from _each_once(model, _usable_hosts(fleet, model, clock()))
        for labels, _ in missing():
            yield labels, 0  # also where no node has it any more

    def missing() -> Iterator[tuple[tuple[str], float]]:
        for short in lost.short(fleet.nodes_ready):
            yield (short.name,), short.nodes_before - short.nodes_ready

    telemetry.watch_each(metrics.MODEL_NODES, hosting, is_hosted=True)
    telemetry.watch_each(metrics.MODEL_NODES_USABLE, usable, is_hosted=True)
    telemetry.watch_each(metrics.MODEL_NODES_MISSING, missing, is_hosted=True)
    telemetry.watch(metrics.DIALS_WAITING, lambda: pool.dials_waiting)
    telemetry.watch(metrics.IN_FLIGHT, lambda: sum(each.rif for each in fleet.endpoints()))
    telemetry.watch(metrics.CONTESTED, owners.contested)
    telemetry.watch(metrics.ON_TRIAL, owners.on_trial)


def _each_once(model: ModelName, peers: Iterable[PeerId]) -> Iterator[tuple[tuple[str], float]]:
    """Yield values that add up to the number of different peers, a peer at a time."""
    yield (model,), 0
    seen: set[PeerId] = set()
    for peer in peers:
        if peer not in seen:
            seen.add(peer)
            yield (model,), 1


def _hosts(fleet: FleetView, model: ModelName) -> Iterator[PeerId]:
    for version in list(fleet.versions_ready(model)):
        yield from list(fleet.hosted(model, version).offers)


def _usable_hosts(fleet: FleetView, model: ModelName, now_s: float) -> Iterator[PeerId]:
    for version in list(fleet.versions_ready(model)):
        for replica in fleet.replicas(model, version):
            endpoint = replica.endpoint
            if (
                endpoint.is_usable
                and not replica.is_out
                and replica.health.may_send(now_s)
                and endpoint.health.may_send(now_s)
            ):
                yield endpoint.peer


def watch_versions(telemetry: Telemetry, fleet: FleetView) -> None:
    """Add what is counted of each version of a model that nodes host."""

    def requests() -> Iterator[tuple[tuple[str, str, str], float]]:
        for model in fleet.models():
            for version in list(fleet.versions(model)):
                counts = fleet.hosted(model, version).requests
                yield (model, version, "answered"), counts.answered
                yield (model, version, "failed"), counts.failed

    def seconds() -> Iterator[tuple[tuple[str, str, str], float]]:
        for model in fleet.models():
            for version in list(fleet.versions(model)):
                counts = fleet.hosted(model, version).requests
                yield (model, version, "answered"), counts.answered_s
                yield (model, version, "failed"), counts.failed_s

    telemetry.watch_each(metrics.VERSION_REQUESTS, requests, is_hosted=True)
    telemetry.watch_each(metrics.VERSION_SECONDS, seconds, is_hosted=True)


def watch_keys(telemetry: Telemetry, quotas: Quotas) -> None:
    """Add how often a key was at one of its limits."""
    telemetry.watch_each(
        metrics.OVER_LIMIT, lambda: [((limit,), count) for limit, count in quotas.over.items()]
    )


def watch_network(
    telemetry: Telemetry, hearing: Hearing, clocks: Clocks, membership: Callable[[], LifeFigures]
) -> None:
    """Add what is to be read of the network, its clock and this router's membership in it."""
    telemetry.watch(
        metrics.MEMBERS_REFUSED, lambda: sum(one.refused for one in hearing.quotas.over())
    )
    telemetry.watch(CLOCK_BEHIND, lambda: clock_fields(hearing.skew(clocks.now()))["peers_ahead_s"])
    telemetry.watch(MEMBERSHIP_LEFT, lambda: membership().left_s)
    telemetry.watch(MEMBERSHIP_LIFE_LEFT, lambda: membership().ratio)


def watch_requests(telemetry: Telemetry, requests: OpenRequests, answers: ReceiveBudget) -> None:
    """Add what is to be read of requests and of the answers that are coming to them."""
    telemetry.watch(metrics.ANSWER_BYTES, lambda: answers.granted_bytes)
    telemetry.watch(metrics.ANSWERS_WAITING, lambda: answers.waiting)
    telemetry.watch(metrics.OPEN_REQUESTS, lambda: requests.count)
    telemetry.watch_each(metrics.HTTP_REQUESTS, requests.answered)


def watch_routing(telemetry: Telemetry, prober: Prober, balancer: Balancer) -> None:
    """Add what is to be read of probes, of second attempts, and of requests refused before a node was asked."""
    telemetry.watch(metrics.PROBES_SENT, lambda: prober.sent)
    telemetry.watch(metrics.PROBES_LOST, lambda: prober.lost)
    telemetry.watch_each(metrics.NOT_ADMITTED, lambda: list(balancer.refusals()))
    telemetry.watch_each(
        metrics.HEDGES,
        lambda: [
            ((each.model, each.version), each.hedging.spent) for each in balancer.served_models()
        ],
    )
    telemetry.watch_each(
        metrics.RETRIES,
        lambda: [
            ((each.model, each.version), each.budget.spent) for each in balancer.served_models()
        ],
    )


def watch_cache(telemetry: Telemetry, cache: AnswerCache, repeated: RepeatedCalls) -> None:
    """Add what is to be read of kept answers, and of idempotency keys."""
    telemetry.watch_each(metrics.REPEATED_CALLS, repeated.counts)
    telemetry.watch(metrics.REPEATED_BYTES, lambda: repeated.used_bytes)
    store = cache.store
    telemetry.watch_each(metrics.CACHE_REQUESTS, cache.counts)
    telemetry.watch_each(metrics.CACHE_NOT_KEPT, cache.not_kept)
    telemetry.watch(metrics.CACHE_EVICTED, lambda: store.evicted)
    telemetry.watch(metrics.CACHE_ENTRIES, lambda: len(store))
    telemetry.watch(metrics.CACHE_BYTES, lambda: store.used_bytes)
    telemetry.watch(metrics.CACHE_BYTES_MOST, lambda: store.most_bytes)
