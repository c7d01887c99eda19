"""A router in virtual time: a router's own parts, with links and timers that are simulated. Pure.

What is left out: HTTP, copies of data, the event loop's own time, signatures of adverts, and who owns a model.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog
from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.fleet import FleetMembership
from capamesh.protocol.links.calls import decode_told_load
from capamesh.protocol.tensors import DEFAULT_LIMITS
from capamesh.router.fleet.clocks import Clocks
from capamesh.router.fleet.lost_nodes import LostNodes
from capamesh.router.fleet.membership import TICK_S
from capamesh.router.fleet.overrides import Overrides
from capamesh.router.fleet.updates import Dialler, FleetUpdates
from capamesh.router.fleet.view import FleetView
from capamesh.router.process.health_watch import JUDGE_EVERY_S
from capamesh.router.process.request_parts import RequestParts
from capamesh.simulation.link import PING_EVERY_S, RouterEnd, SimLink
from capamesh.simulation.request import CallForm, SimRequest

if TYPE_CHECKING:
    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.protocol.ids import PeerId
    from capamesh.router.balancing.unhealthy import Verdict
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.rules.model_rules import RoutingRules
    from capamesh.router.timers import Timer
    from capamesh.simulation.events import Events
    from capamesh.simulation.network import Keeper, Network
    from capamesh.simulation.node import SimNode
    from capamesh.simulation.results import Recorder
    from capamesh.simulation.scenario import RequestKind

QUIET: Final[FilteringBoundLogger] = structlog.wrap_logger(
    None, wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
)
"""A log that takes everything and keeps nothing, for parts that tell what they do."""


class SimRouter(RouterEnd, Dialler):
    """One router: takes requests and adverts, and sends what its parts say over simulated links."""

    def __init__(
        self,
        region: str,
        nodes: Mapping[PeerId, SimNode],
        kinds: Sequence[RequestKind],
        rules: RoutingRules,
        *,
        has_gate: bool,
        events: Events,
        network: Network,
        recorder: Recorder,
        rng: random.Random,
    ) -> None:
        self.region = region
        self._nodes = nodes
        self._events = events
        self._network = network
        self._recorder = recorder
        self._rng = rng
        self._forms = {kind.name: CallForm(kind) for kind in kinds}
        self._keepers: dict[PeerId, Keeper] = {}
        self._members = FleetMembership()
        self._starting: Timer | None = None
        self._ticking: Timer | None = None
        self._pinged_s = 0.0
        self.fleet = FleetView(on_new=self._new, on_gone=self._gone)
        self.parts = RequestParts(
            self.fleet,
            rules,
            clock=events.time,
            timers=events,
            rng=rng,
            counts=recorder,
            do=_do,
            on_verdict=self._judged,
            limits=DEFAULT_LIMITS,
            invite_of=lambda peer: nodes[peer].group.invite,
            is_limited=has_gate,
        )
        self._pipeline = self.parts.routing.pipeline
        self._updates = FleetUpdates(
            self.fleet,
            Overrides(),
            self,
            take=self.fleet.apply,
            on_changes=self.parts.routing.heard,
            lost=LostNodes(),
            clocks=Clocks(wall_ns=lambda: round(events.time() * 1e9), steady_s=events.time),
            log=QUIET,
        )

    @override
    def __repr__(self) -> str:
        return f"SimRouter({self.region!r}, {self.parts.balancer!r})"

    def start(self, adverts: Sequence[NodeAdvert]) -> None:
        """Hear of the fleet, be linked with it at once, and look after it from now on."""
        for advert in adverts:
            self._updates.apply(self._members.heard(advert, self._events.now_s))
        for keeper in self._keepers.values():
            keeper.connect()
        # not in step with the other routers
        after_s = JUDGE_EVERY_S * self._rng.random()
        self._starting = self._events.call_later(after_s, self.parts.watch.start)
        self._ticking = self._events.call_later(TICK_S * self._rng.random(), self._tick)

    def close(self) -> None:
        """Look after the fleet no more."""
        self.parts.routing.close()
        self.parts.watch.close()
        for timer in (self._starting, self._ticking):
            if timer is not None:
                timer.cancel()

    def request(self, kind: RequestKind, key: str) -> None:
        """Take a caller's request."""
        request = SimRequest(kind, self._events, self._recorder)
        call = self._forms[kind.name].call(key, self._events.now_s)
        copies = len(self._pipeline.copies)
        try:
            self._pipeline.start(call, request)
        except CapameshError as error:
            request.fail(error)
        if len(self._pipeline.copies) > copies:
            self._recorder.copied()

    # the fleet

    def heard(self, advert: NodeAdvert) -> None:
        """Take in what a node says of itself now."""
        self._updates.heard(advert.peer, self._members.heard(advert, self._events.now_s))

    @override
    def hurry(self, endpoint: Endpoint, *, is_changed: bool) -> None:
        keeper = self._keepers[endpoint.peer]
        if is_changed or keeper.has_answered:
            keeper.hurry()

    def _tick(self) -> None:
        now_s = self._events.now_s
        self._updates.apply(self._members.tick(now_s, self.fleet.is_linked))
        if now_s - self._pinged_s >= PING_EVERY_S:
            self._pinged_s = now_s
            for keeper in self._keepers.values():
                if keeper.link is not None:
                    keeper.link.ping()
        self._ticking = self._events.call_later(TICK_S, self._tick)

    def _new(self, endpoint: Endpoint) -> None:
        node = self._nodes[endpoint.peer]
        regions = (self.region, node.group.region)
        self._keepers[endpoint.peer] = self._network.keep(self, node, endpoint, regions)

    def _gone(self, endpoint: Endpoint) -> None:
        endpoint.retire(self._keepers.pop(endpoint.peer).stop)

    # links

    @override
    def link_up(self, link: SimLink) -> None:
        link.endpoint.link = link
        self.parts.watch.linked(link.endpoint)

    @override
    def link_down(self, link: SimLink) -> None:
        link.endpoint.link = None
        self.parts.watch.unlinked(link.endpoint)

    @override
    def load_told(self, link: SimLink, meta: bytes) -> None:
        told = decode_told_load(meta)
        self.parts.balancer.load_told(link.endpoint, *told, self._events.now_s)

    @override
    def sent(self, link: SimLink) -> None:
        self._recorder.sent(link.node.index)

    @override
    def probed(self, link: SimLink) -> None:
        self._recorder.probed()

    def _judged(self, verdict: Verdict) -> None:
        self._recorder.verdict(type(verdict).__name__.lower())

    # for the end

    def counters(self) -> dict[str, int]:
        """Return all that counts requests under way, by name."""
        endpoints = list(self.fleet.endpoints())
        balancer = self.parts.balancer
        return {
            "in flight at endpoints": sum(abs(endpoint.rif) for endpoint in endpoints),
            "in flight at replicas": sum(
                abs(replica.rif)
                for served in balancer.served_models()
                for replica in served.replicas
            ),
            "waiting for a link": len(balancer.links),
            "waiting for a sign of life": len(balancer.lives),
            "let in": balancer.under_way,
            "copies": len(self._pipeline.copies),
        }


def _do(loop: str, turn: Callable[[], None]) -> None:
    """Do a turn of a loop; a bug in it ends the simulation, which looks for such."""
    del loop
    turn()
