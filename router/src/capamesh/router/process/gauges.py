"""The gauges of a router, read from its parts whenever they are asked for. Does no IO."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from capamesh.protocol.network_clock import clock_fields

if TYPE_CHECKING:
    from capamesh.protocol.links.receive_budget import ReceiveBudget
    from capamesh.router.balancing.prober import Prober
    from capamesh.router.fleet.clocks import Clocks
    from capamesh.router.fleet.hearing import Hearing
    from capamesh.router.fleet.links import LinkPool
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.http.application import OpenRequests
    from capamesh.router.ownership.owners import Owners
    from capamesh.router.requests.routing import Routing
    from capamesh.router.telemetry import Telemetry


def watch_fleet(telemetry: Telemetry, fleet: FleetView, pool: LinkPool, owners: Owners) -> None:
    """Add what is to be read of nodes and of the models that they host."""
    telemetry.watch("capamesh_nodes", "Nodes in this router's view", lambda: len(fleet.adverts))
    telemetry.watch(
        "capamesh_dials_waiting",
        "Addresses of nodes that wait for their turn to be dialled",
        lambda: pool.dials_waiting,
    )
    telemetry.watch(
        "capamesh_requests_in_flight",
        "Requests that nodes have not answered yet",
        lambda: sum(endpoint.rif for endpoint in fleet.endpoints()),
    )
    telemetry.watch(
        "capamesh_contested_models",
        "Model versions of which nodes host another file than the one that is served",
        owners.contested,
    )
    telemetry.watch(
        "capamesh_models_on_trial",
        "Hosted model versions that are not trusted yet",
        owners.on_trial,
    )


def watch_network(
    telemetry: Telemetry, hearing: Hearing, clocks: Clocks, membership_left_s: Callable[[], float]
) -> None:
    """Add what is to be read of the network, its clock and this router's membership in it."""
    telemetry.watch(
        "capamesh_members_refused",
        "Identities without a place: as many members of their invite as it admits are here already",
        lambda: sum(one.refused for one in hearing.quotas.over()),
    )
    telemetry.watch(
        "capamesh_clock_behind_seconds",
        "How far the clocks of most other members are ahead of this router's; negative: it is ahead of them",
        lambda: clock_fields(hearing.skew(clocks.now()))["peers_ahead_s"],
    )
    telemetry.watch(
        "capamesh_membership_expires_seconds",
        "Until this router's membership ends; negative once it has",
        membership_left_s,
    )


def watch_requests(telemetry: Telemetry, requests: OpenRequests, answers: ReceiveBudget) -> None:
    """Add what is to be read of requests and of the answers that are coming to them."""
    telemetry.watch(
        "capamesh_answer_bytes",
        "Of large answers that are coming from nodes",
        lambda: answers.granted_bytes,
    )
    telemetry.watch(
        "capamesh_answers_waiting",
        "Large answers that wait at their nodes until there is room",
        lambda: answers.waiting,
    )
    telemetry.watch(
        "capamesh_open_requests",
        "HTTP requests between their head and their answer, the one that asks this included",
        lambda: requests.count,
    )


def watch_routing(telemetry: Telemetry, prober: Prober, routing: Routing) -> None:
    """Add what is to be read of probes, and of the requests that were refused before a node was asked."""
    telemetry.watch_count(
        "capamesh_probes_sent",
        "Probes of nodes' load that were sent",
        (),
        lambda: [((), prober.sent)],
    )
    telemetry.watch_count(
        "capamesh_probes_lost",
        "Probes of nodes' load that were not answered in time",
        (),
        lambda: [((), prober.lost)],
    )
    telemetry.watch_count(
        "capamesh_requests_not_admitted",
        "Requests refused before a node was asked, by reason: late (its deadline), share (its tenant's), shed, full",
        ("model", "version", "reason"),
        routing.refusals,
    )
