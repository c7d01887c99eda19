"""A router in virtual time: the production balancer, flights and controller, with links that are simulated. Pure.

What is left out: HTTP, copies of data, and the event loop's own time.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from capamesh.protocol.errors import CapameshError, LinkLost
from capamesh.protocol.fleet import Changed, Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.admission.controller import Permit
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.fleet.view import FleetView
from capamesh.router.policies import make_policy
from capamesh.router.policies.policy import RequestShape
from capamesh.router.requests.attempt_events import Action, Answered, Failed, Send, Withdraw
from capamesh.router.requests.attempt_events import Probe as AskForLife
from capamesh.router.requests.attempts import RequestAttempts
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.rules.model_rules import ModelRules, RoutingRules
from capamesh.simulation.errors import InvariantBroken
from capamesh.simulation.exchange import Exchange, Probe, SimRequest
from capamesh.simulation.results import OK

if TYPE_CHECKING:
    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.protocol.ids import PeerId
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.protocol.links.link import Link
    from capamesh.router.fleet.endpoint import Endpoint
    from capamesh.router.fleet.replica import Replica
    from capamesh.simulation.events import Events
    from capamesh.simulation.network import Keeper, Network, SimLink
    from capamesh.simulation.node import SimNode
    from capamesh.simulation.results import Recorder
    from capamesh.simulation.scenario import RequestKind

REPROBE_S = 0.05
JUDGE_S = 1.0
"""How often `Balancer.reprobes` and `Balancer.tick` are to be called, as they say."""
PROBE_PATIENCE_S = 1.0
"""A probe that is not answered by then counts as failed (guess: several round trips of any region)."""
NEWEST = ModelVersion("")


class SimRouter:
    """One router: takes requests, drives their flights, and sends what they say over simulated links."""

    def __init__(
        self,
        region: str,
        nodes: Mapping[PeerId, SimNode],
        *,
        policy: str,
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
        self._keepers: dict[PeerId, Keeper] = {}
        self._has_gate = has_gate
        self._shapes: dict[str, RequestShape] = {}
        self._probes: deque[Probe] = deque()
        """Those that may still be answered, oldest first."""
        self.fleet = FleetView(on_new=self._new, on_gone=self._gone)
        self.balancer = Balancer(
            self.fleet,
            make_policy=lambda name: make_policy(name, rng),
            rng=rng,
            rules=RoutingRules(ModelRules(policy=policy)),
        )

    def __repr__(self) -> str:
        return f"SimRouter({self.region!r}, {self.balancer!r})"

    # the fleet

    def joined(self, adverts: Sequence[NodeAdvert]) -> None:
        """Hear of the fleet for the first time; links to it are up at once."""
        self.fleet.apply([Joined(advert) for advert in adverts])
        for keeper in self._keepers.values():
            keeper.connect()

    def heard(self, advert: NodeAdvert) -> None:
        """Hear what a node says of itself now."""
        before = self.fleet.adverts[advert.peer]
        self.fleet.apply([Changed(advert, before)])
        self._keepers[advert.peer].hurry()

    def start(self, until_s: float) -> None:
        """Probe the inhibited and judge the replicas now and then, until `until_s`."""
        # not in step with the other routers
        self._every(REPROBE_S, REPROBE_S * self._rng.random(), self._reprobe, until_s)
        self._every(JUDGE_S, JUDGE_S * self._rng.random(), self._judge, until_s)

    def _new(self, endpoint: Endpoint) -> None:
        node = self._nodes[endpoint.peer]
        regions = (self.region, node.group.region)
        self._keepers[endpoint.peer] = self._network.keep(self, node, endpoint, regions)

    def _gone(self, endpoint: Endpoint) -> None:
        endpoint.retire(self._keepers[endpoint.peer].stop)

    # requests

    def request(self, kind: RequestKind, key: str) -> None:
        """A caller asks for something."""
        now_s = self._events.now_s
        self._recorder.came(kind, now_s)
        model = ModelName(kind.model)
        permit: Permit | None = None
        try:
            served = self.balancer.served(model, NEWEST)
            if self._has_gate:
                permit = served.admission.admit(
                    served.replicas,
                    kind.tenant,
                    kind.priority,
                    kind.is_bulk,
                    now_s,
                    kind.deadline_s,
                )
        except CapameshError as error:
            self._recorder.ended(kind, now_s, error.code, now_s)
            return
        deadline_s = now_s + kind.deadline_s
        half_bytes = kind.size_bytes - kind.size_bytes // 2
        shape = self._shape(kind, half_bytes, key)
        picker = RequestPicker(served, ANYWHERE, shape, deadline_s)
        attempts = RequestAttempts(
            picker,
            deadline_s=deadline_s,
            size_bytes=half_bytes,
            is_safe=kind.is_safe,
            is_hedged=kind.is_hedged and not key,
        )
        request = SimRequest(kind, now_s, attempts, permit)
        self._do(request, attempts.start(now_s))
        for replica in picker.probes(now_s):
            self._probe(replica)

    def _shape(self, kind: RequestKind, size_bytes: int, key: str) -> RequestShape:
        if key:
            return RequestShape(
                ModelName(kind.model), NEWEST, size_bytes, key, is_urgent=kind.is_urgent
            )
        shape = self._shapes.get(kind.name)
        if shape is None:
            shape = RequestShape(
                ModelName(kind.model), NEWEST, size_bytes, is_urgent=kind.is_urgent
            )
            self._shapes[kind.name] = shape
        return shape

    def _do(self, request: SimRequest, actions: Sequence[Action]) -> None:
        """Do what a request says, and see to its next moment."""
        for action in actions:
            if isinstance(action, Send):
                self._send(request, action)
            elif isinstance(action, Answered):
                self._end(request, OK)
            elif isinstance(action, Failed):
                self._end(request, action.error.code)
            elif isinstance(action, AskForLife):
                self._probe(action.replica)
            else:
                self._withdraw(request, action)
        timer = request.timer
        if request.attempts.is_waiting:
            size_bytes = request.kind.size_bytes // 2
            self.balancer.links.add(request, lambda: self._linked(request), size_bytes)
            if request.attempts.awaits_life:
                self.balancer.lives.add(request, lambda: self._linked(request))
        if request.is_over:
            self.balancer.links.remove(request)
            self.balancer.lives.remove(request)
            request.exchanges.clear()  # no cycle: what is over is freed at once
            request.timer = None
            if timer is not None:
                timer.cancel()
            return
        due_s = request.attempts.due_s
        if due_s == math.inf:
            raise InvariantBroken(f"{request!r} waits for ever")
        if timer is not None and request.timer_s <= due_s:
            return  # it comes early, and is set anew then
        if timer is not None:
            timer.cancel()
        request.timer_s = due_s
        request.timer = self._events.timer(due_s, self._tick, request)

    def _send(self, request: SimRequest, send: Send) -> None:
        replica = send.replica
        link = cast("SimLink | None", replica.endpoint.link)
        if link is None or send.attempt != len(request.exchanges):
            raise InvariantBroken(f"{request!r} is sent to {replica!r}, attempt {send.attempt}")
        budget_ms = replica.endpoint.network.budget_ms(send.budget_ms)
        exchange = Exchange(request, send.attempt, replica, link, budget_ms / 1000)
        request.exchanges.append(exchange)
        link.pending[exchange] = None
        self._recorder.sent(request.arrived_s, link.node.index, is_first=send.attempt == 0)
        kind = request.kind
        link.to_node(kind.size_bytes - kind.size_bytes // 2, link.node.requested, exchange)

    def _withdraw(self, request: SimRequest, withdraw: Withdraw) -> None:
        exchange = request.exchanges[withdraw.attempt]
        link = exchange.link
        link.pending.pop(exchange, None)
        link.to_node(0, link.node.withdrawn, exchange)

    def _end(self, request: SimRequest, code: str) -> None:
        if request.is_over:
            raise InvariantBroken(f"{request!r} has a second outcome: {code}")
        request.is_over = True
        kind = request.kind
        now_s = self._events.now_s
        self._recorder.ended(kind, request.arrived_s, code, now_s)
        if request.permit is not None:
            request.permit.release(now_s)

    def _tick(self, request: SimRequest) -> None:
        request.timer = None
        self._do(request, request.attempts.tick(self._events.now_s))

    def _linked(self, request: SimRequest) -> None:
        self._do(request, request.attempts.linked(self._events.now_s))

    # what comes over links: `RouterEnd`

    def link_up(self, link: SimLink) -> None:
        """An endpoint can be reached."""
        endpoint = link.endpoint
        endpoint.link = cast("Link", link)
        endpoint.network.round_trip(link.round_trip_s)
        self.balancer.linked(endpoint, self._events.now_s)

    def link_down(self, link: SimLink, error: LinkLost) -> None:
        """An endpoint cannot be reached any more."""
        link.endpoint.link = None
        self.balancer.unlinked(link.endpoint, self._events.now_s)
        pending = list(link.pending)
        link.pending.clear()
        for exchange in pending:
            self.failed(exchange, error)

    def answered(self, exchange: Exchange, load: LoadReport, at_node_s: float) -> None:
        """An answer has come."""
        if exchange.link.is_up:
            exchange.link.pending.pop(exchange, None)
            request = exchange.request
            answer_bytes = request.kind.size_bytes // 2
            actions = request.attempts.answered(
                exchange.attempt, load, at_node_s, answer_bytes, self._events.now_s
            )
            if actions:
                self._do(request, actions)

    def failed_at_node(self, exchange: Exchange, error: CapameshError) -> None:
        """A refusal or an error has come."""
        if exchange.link.is_up:
            exchange.link.pending.pop(exchange, None)
            self.failed(exchange, error)

    def failed(self, exchange: Exchange, error: CapameshError) -> None:
        """An attempt has failed."""
        request = exchange.request
        if request.is_over:
            return
        now_s = self._events.now_s
        self._do(request, request.attempts.failed(exchange.attempt, error, now_s))

    def load_reported(self, probe: Probe, load: LoadReport) -> None:
        """A probe's reply has come."""
        if probe.link.is_up and not probe.is_over:
            probe.is_over = True
            now_s = self._events.now_s
            self.balancer.probe_answered(probe.replica, load, now_s - probe.sent_s, now_s)

    # now and then

    def _probe(self, replica: Replica) -> None:
        link = cast("SimLink | None", replica.endpoint.link)
        if link is None:
            return
        now_s = self._events.now_s
        probe = Probe(replica, link, now_s)
        self._probes.append(probe)
        self._recorder.probed(now_s)
        link.to_node(0, link.node.probed, probe)

    def _reprobe(self) -> None:
        now_s = self._events.now_s
        probes = self._probes
        while probes and (probes[0].is_over or probes[0].sent_s + PROBE_PATIENCE_S <= now_s):
            probe = probes.popleft()
            if not probe.is_over:
                probe.is_over = True
                self.balancer.probe_failed(probe.replica, now_s)
        for replica in self.balancer.reprobes(now_s):
            self._probe(replica)

    def _judge(self) -> None:
        for verdict in self.balancer.tick(self._events.now_s):
            self._recorder.verdict(type(verdict).__name__.lower())

    def _every(
        self, period_s: float, after_s: float, do: Callable[[], None], until_s: float
    ) -> None:
        due_s = self._events.now_s + after_s
        if due_s <= until_s:
            self._events.at(due_s, self._again, period_s, do, until_s)

    def _again(self, period_s: float, do: Callable[[], None], until_s: float) -> None:
        do()
        self._every(period_s, period_s, do, until_s)

    # for the end

    def counters(self) -> dict[str, int]:
        """Return all that counts requests under way, by name."""
        endpoints = list(self.fleet.endpoints())
        return {
            "rif of candidates": sum(endpoint.rif for endpoint in endpoints),
            "rif of hosts": sum(
                abs(replica.rif)
                for served in self.balancer.served_models()
                for replica in served.replicas
            ),
            "waiting for a link": len(self.balancer.links),
            "waiting for a sign of life": len(self.balancer.lives),
            "under way at gates": self.balancer.under_way,
        }
