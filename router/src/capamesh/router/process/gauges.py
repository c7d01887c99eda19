"""The gauges of a router, read from its parts whenever they are asked for. Does no IO."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from capamesh.protocol.metrics import BUILD, CLOCK_BEHIND, DISK, DISK_FREE, MEMBERSHIP_LEFT
from capamesh.protocol.network_clock import clock_fields
from capamesh.router.telemetry import metrics

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName
    from capamesh.protocol.links.receive_budget import ReceiveBudget
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.prober import Prober
    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.hearing import Hearing
    from capamesh.router.fleet.links import LinkPool
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.http.application import OpenRequests
    from capamesh.router.ownership.owners import Owners
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
    telemetry.watch_each(BUILD, lambda: [((version,), 1)])
    telemetry.watch(DISK_FREE, lambda: disk().free)
    telemetry.watch(DISK, lambda: disk().total)


def watch_fleet(
    telemetry: Telemetry,
    fleet: FleetView,
    pool: LinkPool,
    owners: Owners,
    clock: Callable[[], float],
) -> None:
    """Add what is to be read of the models that nodes host, and of nodes as a whole."""

    def hosts(model: ModelName) -> Iterator[tuple[str, bool]]:
        now_s = clock()
        for version in fleet.versions_ready(model):
            for replica in fleet.replicas(model, version):
                healths = (replica.health, replica.endpoint.health)
                is_usable = (
                    replica.endpoint.is_usable
                    and not replica.is_out
                    and all(health.may_send(now_s) for health in healths)
                )
                yield replica.endpoint.peer, is_usable

    def hosting() -> Iterator[tuple[tuple[str], float]]:
        for model in fleet.models():
            hosted = [fleet.hosted(model, version) for version in fleet.versions_ready(model)]
            yield (model,), len({peer for each in hosted for peer in each.offers})

    def usable() -> Iterator[tuple[tuple[str], float]]:
        for model in fleet.models():
            yield (model,), len({peer for peer, is_usable in hosts(model) if is_usable})

    telemetry.watch_each(metrics.MODEL_NODES, hosting, is_hosted=True)
    telemetry.watch_each(metrics.MODEL_NODES_USABLE, usable, is_hosted=True)
    telemetry.watch(metrics.DIALS_WAITING, lambda: pool.dials_waiting)
    telemetry.watch(metrics.IN_FLIGHT, lambda: sum(each.rif for each in fleet.endpoints()))
    telemetry.watch(metrics.CONTESTED, owners.contested)
    telemetry.watch(metrics.ON_TRIAL, owners.on_trial)


def watch_network(
    telemetry: Telemetry, hearing: Hearing, clocks: Clocks, membership_left_s: Callable[[], float]
) -> None:
    """Add what is to be read of the network, its clock and this router's membership in it."""
    telemetry.watch(
        metrics.MEMBERS_REFUSED, lambda: sum(one.refused for one in hearing.quotas.over())
    )
    telemetry.watch(CLOCK_BEHIND, lambda: clock_fields(hearing.skew(clocks.now()))["peers_ahead_s"])
    telemetry.watch(MEMBERSHIP_LEFT, membership_left_s)


def watch_requests(telemetry: Telemetry, requests: OpenRequests, answers: ReceiveBudget) -> None:
    """Add what is to be read of requests and of the answers that are coming to them."""
    telemetry.watch(metrics.ANSWER_BYTES, lambda: answers.granted_bytes)
    telemetry.watch(metrics.ANSWERS_WAITING, lambda: answers.waiting)
    telemetry.watch(metrics.OPEN_REQUESTS, lambda: requests.count)


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
