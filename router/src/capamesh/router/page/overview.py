"""The overview that the page shows: the router, its nodes and models, as rows of plain values. Holds state, does no IO.

A row is never changed once it was given away: what differs is another row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from capamesh.protocol.adverts import ModelState, NodeAdvert, Sequence, shown_version
from capamesh.protocol.ids import PeerId
from capamesh.router.fleet.lost_nodes import LostNodes
from capamesh.router.page.advert_summary import (
    MOST_NAMED,
    AdvertSummary,
    Key,
    summary_of,
)
from capamesh.router.page.others import OthersFigures
from capamesh.router.resilience.health import CircuitState

if TYPE_CHECKING:
    from datetime import datetime

    from capamesh.protocol.network import Member
    from capamesh.protocol.steps import Steps
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.lost_nodes import LostNode
    from capamesh.router.fleet.view import FleetView

Row = Mapping[str, Any]
STEP: Final = 32
"""The number of nodes in a step (measured: 10 µs a node)."""
STEP_REPLICAS: Final = 2048
"""The number of replicas in a step through the models (measured: 0.14 µs a replica); a model's are looked at in one. They
are those at endpoints with requests in flight: a model may have ten thousand, of which few have any."""
MOST_FAILED_AT: Final = 5
"""The most nodes that a model's row names as those where it fails (guess: what fits a few lines)."""
_EXACT_US: Final = 100
_REPLICAS_OF_ROW: Final = 64
"""The number of replicas that take as long to look at as the rest of a model's row (measured: 9 µs)."""
_LINK: Final = (
    "address",
    "is_up",
    "is_usable",
    "is_suspected",
    "state",
    "reason",
    "last_error",
)
"""The values that are told of a link."""
_WELL: Final = (CircuitState.CLOSED, CircuitState.FORCED_CLOSED)


_NOTHING_TOLD: Final = summary_of(
    NodeAdvert(PeerId(""), Sequence(0, 0), (), (), "", 0.0, "", is_draining=False)
).row
"""The part of a row that is an advert's, of a node of which there is none."""


_Seen = tuple[AdvertSummary, str, str, "Member | None", list[tuple[object, ...]], list[list[int]]]
"""The values that a node's row is made of: its advert, state, reason, membership, links and their counts."""


@dataclass(frozen=True, slots=True)
class Overview:
    """All that the page shows of now."""

    router: Row = field(default_factory=dict[str, Any])
    nodes: Mapping[str, Row] = field(default_factory=dict[str, Row])
    """The row of each node, by its peer id."""
    models: Mapping[str, Row] = field(default_factory=dict[str, Row])
    """The row of each model version, by name and version."""


@dataclass(slots=True)
class _Tally:
    """The number of nodes that have one model version in each state."""

    counts: dict[ModelState, int] = field(default_factory=dict[ModelState, int])
    failed_at: dict[PeerId, str] = field(default_factory=dict["PeerId", str])
    """The reason at each node where it fails."""


class OverviewMaker:
    """Makes the overview, again and again. What an advert means is worked out once, when it has changed."""

    def __init__(
        self,
        fleet: FleetView,
        *,
        last_error: Callable[[Endpoint], str],
        clock: Callable[[], float],
        router: Callable[[], Row],
        traffic: Callable[[str], Row],
        member_of: Callable[[PeerId], Member | None],
        drained_until: Callable[[PeerId], datetime | None],
        lost: LostNodes | None = None,
        others: OthersFigures | None = None,
    ) -> None:
        """`last_error` is why an endpoint has no link, `clock` that of the nodes' healths in seconds.

        `router` returns the row of the router itself, `traffic` what is known of a model's requests, `member_of` the
        membership by which a node is in the fleet, `drained_until` until when the owner has drained it. `lost` are the nodes that vanished. `others` has the figures of
        the router's other processes; None: there are none.
        """
        self._others = OthersFigures() if others is None else others
        self._lost = LostNodes() if lost is None else lost
        self._fleet = fleet
        self._last_error = last_error
        self._clock = clock
        self._router = router
        self._traffic = traffic
        self._member_of = member_of
        self._drained_until = drained_until
        self._known: dict[PeerId, tuple[NodeAdvert, AdvertSummary]] = {}
        self._rows: dict[PeerId, tuple[_Seen, Row]] = {}
        """The last row of each node, and what it was made of: the same row again costs neither time nor memory."""
        self._tallies: dict[Key, _Tally] = {}

    def steps(self) -> Steps[Overview]:
        """Make the overview of now, in short steps."""
        adverts = dict(self._fleet.adverts)
        for peer in self._known.keys() - adverts.keys():
            self._forget(peer)
        nodes: dict[str, Row] = {}
        busy: list[Endpoint] = []
        for number, (peer, advert) in enumerate(adverts.items()):
            if number % STEP == 0:
                yield
            endpoints = self._fleet.endpoints_of(peer)
            busy += [endpoint for endpoint in endpoints if endpoint.rif]
            nodes[peer] = self._node(advert, endpoints)
        for number, node in enumerate(self._lost.nodes()):
            if number % STEP == 0:
                yield
            nodes[node.peer] = _lost_row(node)
        models: dict[str, Row] = {}
        looked_at = STEP_REPLICAS
        for key, tally in sorted(self._tallies.items()):
            if looked_at >= STEP_REPLICAS:
                looked_at = 0
                yield
            models[f"{key[0]}/{shown_version(key[1])}"] = self._model(key, tally, busy)
            looked_at += _REPLICAS_OF_ROW + len(busy)
        return Overview(self._router(), nodes, models)

    def _node(self, advert: NodeAdvert, endpoints: Items[Endpoint]) -> Row:
        """Return the row of a node: the one of before if nothing has changed."""
        peer = advert.peer
        now_s = self._clock()
        state, reason = self._state_of(advert, endpoints)
        seen: _Seen = (
            self._summary(advert),
            state,
            reason,
            self._member_of(peer),
            [self._link(endpoint, now_s) for endpoint in endpoints],
            [self._counts(endpoint) for endpoint in endpoints],
        )
        known = self._rows.get(peer)
        if known is not None and known[0] == seen:
            return known[1]
        summary, _, _, member, links, counts = seen
        row = {
            **summary.row,
            "state": state,
            "reason": reason,
            "lost_at": None,
            "member_since": None if member is None else member.starts_at.isoformat(),
            "member_until": None if member is None else member.expires_at.isoformat(),
            "links": [dict(zip(_LINK, link, strict=True)) for link in links],
            "counts": counts,
        }
        self._rows[peer] = seen, row
        return row

    def _link(self, endpoint: Endpoint, now_s: float) -> tuple[object, ...]:
        """Return the values of `_LINK`."""
        is_up = endpoint.link is not None
        return (
            endpoint.address,
            is_up,
            endpoint.is_usable,
            endpoint.is_suspected,
            str(endpoint.health.state(now_s)),
            endpoint.health.reason,
            "" if is_up else self._last_error(endpoint),
        )

    def _state_of(self, advert: NodeAdvert, endpoints: Iterable[Endpoint]) -> tuple[str, str]:
        """Return the state of a node in one word, the best of its endpoints', and the reason for people."""
        if advert.is_draining:
            return "draining", "it takes no new requests"
        drained_until = self._drained_until(advert.peer)
        if drained_until is not None:
            return (
                "draining",
                f"drained until {drained_until:%Y-%m-%d %H:%M} UTC, by the network's owner",
            )
        now_s, found = self._clock(), ("unusable", self._fleet.refused_addresses(advert.peer))
        for endpoint in endpoints:
            if not endpoint.is_usable:
                found = ("unusable", self._last_error(endpoint) or found[1])
            elif (circuit := endpoint.health.state(now_s)) not in _WELL:
                found = (str(circuit), endpoint.health.reason)
            elif endpoint.is_suspected:
                return "suspected", "it was not heard of for longer than it should be"
            else:
                return "usable", ""
        return found

    def _model(self, key: Key, tally: _Tally, busy: Iterable[Endpoint]) -> Row:
        """Return the row of a model version; `busy` are all endpoints with requests in flight."""
        name, version = key
        fleet, counts = self._fleet, tally.counts
        at = fleet.hosted(name, version).by_endpoint
        return {
            "name": name,
            "version": shown_version(version),
            "is_newest": fleet.newest(name) == version,
            "is_reached": fleet.is_reached(name, version),
            "choice": fleet.choice(name, version),
            "nodes_ready": counts.get(ModelState.READY, 0),
            "nodes_loading": counts.get(ModelState.LOADING, 0),
            "nodes_unloaded": counts.get(ModelState.UNLOADED, 0)
            + counts.get(ModelState.UNLOADING, 0),
            "nodes_failed": counts.get(ModelState.FAILED, 0),
            "failed_at": [
                {"peer_id": peer, "reason": reason}
                for peer, reason in islice(tally.failed_at.items(), MOST_FAILED_AT)
            ],
            "requests_in_flight": sum(
                [at[endpoint].rif for endpoint in busy if endpoint in at],
                self._others.of_model(name, version),
            ),
            "traffic": self._others.traffic(name, self._traffic(name)),
        }

    def _summary(self, advert: NodeAdvert) -> AdvertSummary:
        """Return what an advert means, and count its models in the place of those of the advert before."""
        known = self._known.get(advert.peer)
        if known is not None:
            if known[0] is advert:
                return known[1]
            self._forget(advert.peer)
        summary = summary_of(advert)
        self._known[advert.peer] = advert, summary
        for key, (state, reason) in summary.states.items():
            tally = self._tallies.setdefault(key, _Tally())
            tally.counts[state] = tally.counts.get(state, 0) + 1
            if state is ModelState.FAILED:
                tally.failed_at[advert.peer] = reason
        return summary

    def _counts(self, endpoint: Endpoint) -> list[int]:
        """Return the round trip in microseconds, and the requests in flight, answered and failed."""
        rtt_us = _coarse(round(endpoint.network.rtt_s * 1e6))
        in_flight, answered, failed = self._others.of_link(endpoint)
        return [
            rtt_us,
            endpoint.rif + in_flight,
            endpoint.answered + answered,
            endpoint.failed + failed,
        ]

    def _forget(self, peer: PeerId) -> None:
        _, summary = self._known.pop(peer)
        self._rows.pop(peer, None)
        for key, (state, _) in summary.states.items():
            tally = self._tallies[key]
            tally.counts[state] -= 1
            tally.failed_at.pop(peer, None)
            if not any(tally.counts.values()):
                del self._tallies[key]


def _lost_row(node: LostNode) -> Row:
    """Return the row of a node that vanished."""
    named = [f"{model.name}/{model.version}" for model in node.models[:MOST_NAMED]]
    more = len(node.models) - len(named)
    had = ", ".join(named) + (f" and {more} more" if more else "")
    return {
        **_NOTHING_TOLD,
        "name": node.name,
        "models": len(node.models),
        "state": "lost",
        "reason": f"since {node.lost_at:%Y-%m-%d %H:%M:%S} UTC; it had {had or 'no model ready'}",
        "lost_at": node.lost_at.isoformat(timespec="seconds"),
        "member_since": None,
        "member_until": None,
        "links": [],
        "counts": [],
    }


def _coarse(microseconds: int) -> int:
    """Return a time in two digits: a round trip is never the same twice, and nobody reads the third."""
    size = 1
    while microseconds >= _EXACT_US * size:
        size *= 10
    return microseconds // size * size
