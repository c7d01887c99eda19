"""A request's way through the router: which version, whether it is let in, where it goes, who gets a copy. IO: dispatch.

What belongs to one model is made at its first request and forgotten with the model; what a request asks of its
way beside the call itself are its `Wishes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capamesh.protocol.errors import CapameshError, NoCandidate
from capamesh.protocol.links.calls import MAX_PRIORITY
from capamesh.router.admission.gate import Gate
from capamesh.router.balancing.eligibility import ANYWHERE, Constraints
from capamesh.router.policies.seam import RequestShape
from capamesh.router.traffic import Mirror, VersionSplit

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.protocol.links.calls import InferCall
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.desk import TrafficDesk
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.balancing.model_traffic import ModelTraffic
    from capamesh.router.dispatch import Dispatch, Outcome
    from capamesh.router.fleet_view import FleetView
    from capamesh.router.routing_rules import RoutingRules

AFFINITY = "affinity"
"""The policy of requests that must meet at one node."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request asks of its way."""

    constraints: Constraints = ANYWHERE
    policy: str = ""
    """Empty: the model's."""
    affinity: str = ""
    """Requests of one key go to one node where that is possible; "": wherever is best."""
    tenant: str = ""
    """Whose share of the fleet it uses when there is not enough for all."""


NO_WISHES = Wishes()


class _Model:
    """What one model's requests have in common."""

    __slots__ = ("gates", "mirror", "split")

    def __init__(self, split: VersionSplit, mirror: Mirror | None) -> None:
        self.split = split
        self.mirror = mirror
        self.gates: dict[ModelVersion, Gate] = {}


class Routing:
    """All requests of one router."""

    def __init__(
        self,
        fleet: FleetView,
        balancer: Balancer,
        dispatch: Dispatch,
        rules: RoutingRules,
        *,
        chance: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._balancer = balancer
        self._dispatch = dispatch
        self._rules = rules
        self._chance = chance
        self._clock = clock
        self._models: dict[ModelName, _Model] = {}
        self._copies: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"Routing({len(self._models)} models, {len(self._copies)} copies under way)"

    async def infer(
        self, call: InferCall, wishes: Wishes, deadline_s: float
    ) -> tuple[Outcome, TrafficDesk]:
        """Return the answer before `deadline_s` on the clock, and the desk that can explain it.

        Raises `ModelNotFound`; `Overloaded` when there is no room for it; what `Dispatch.infer` raises.
        """
        now_s = self._clock()
        model = self._model(call.model)
        key = wishes.affinity
        if call.sequence is not None:
            key = f"sequence {call.sequence.id}"
        version = model.split.pick(
            self._fleet.versions_ready(call.model), self._chance, asked=call.version, key=key
        )
        traffic = self._balancer.traffic(call.model, version)
        if traffic.version != call.version:
            call = call._replace(version=traffic.version)
        gate = self._gate(model, traffic)
        gate.admit(wishes.tenant, call.priority, call.is_bulk, now_s, deadline_s - now_s)
        desk = self._desk(call, traffic, wishes, key, deadline_s)
        gate.entered(wishes.tenant, now_s)
        try:
            mirror = model.mirror
            if mirror is not None and mirror.wants(self._chance, served=traffic.version, key=key):
                self._copy(call, mirror, wishes.constraints, key, deadline_s)
            return await self._dispatch.infer(call, traffic, desk, deadline_s), desk
        finally:
            gate.left(wishes.tenant, self._clock())

    def explain(self, model: ModelName, version: ModelVersion, wishes: Wishes) -> Explanation:
        """Return where a request would go now, and why; nobody is chosen where nobody may have it.

        Raises `ModelNotFound`.
        """
        now_s = self._clock()
        picked = self._model(model).split.pick(
            self._fleet.versions_ready(model), self._chance, asked=version, key=wishes.affinity
        )
        traffic = self._balancer.traffic(model, picked)
        shape = RequestShape(model, traffic.version, 0, wishes.affinity)
        policy = wishes.policy or (AFFINITY if wishes.affinity else "")
        desk = traffic.desk(wishes.constraints, shape, policy=policy)
        with contextlib.suppress(NoCandidate):
            desk.chosen = (desk.choose((), now_s),)
        return desk.explain(now_s)

    def tick(self) -> None:
        """Forget models and versions that nobody hosts any more; to be called now and then."""
        for name, model in list(self._models.items()):
            ready = self._fleet.versions_ready(name)
            for version, gate in list(model.gates.items()):
                if version not in ready and not gate.under_way:
                    del model.gates[version]
            if not ready and not model.gates:
                del self._models[name]

    async def close(self) -> None:
        """End the copies that are under way."""
        for task in self._copies:
            task.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    @property
    def under_way(self) -> int:
        """Requests that were let in and have not ended."""
        return sum(
            gate.under_way for model in self._models.values() for gate in model.gates.values()
        )

    # inside

    def _model(self, name: ModelName) -> _Model:
        model = self._models.get(name)
        if model is None:
            rules = self._rules.of(name)
            mirror = Mirror(rules.mirror) if rules.mirror is not None else None
            model = _Model(VersionSplit(rules.weights), mirror)
            if self._fleet.versions_ready(name):  # else anyone could fill the memory with names
                self._models[name] = model
        return model

    def _gate(self, model: _Model, traffic: ModelTraffic) -> Gate:
        gate = model.gates.get(traffic.version)
        if gate is None:
            gate = model.gates[traffic.version] = Gate(
                traffic.model,
                lambda: traffic.hosts,
                self._chance,
                weights=dict(self._rules.of(traffic.model).tenants),
            )
        if traffic.on_refused is None:  # it is new, or was forgotten while requests kept its gate
            traffic.on_refused = gate.refused
            traffic.is_full = lambda: gate.is_contested
        return gate

    def _desk(
        self,
        call: InferCall,
        traffic: ModelTraffic,
        wishes: Wishes,
        key: str,
        deadline_s: float,
    ) -> TrafficDesk:
        size_bytes = 0
        for tensor in call.inputs:
            size_bytes += len(tensor.data)
        is_bound = call.sequence is not None
        shape = RequestShape(call.model, traffic.version, size_bytes, key, is_bound)
        policy = wishes.policy or (AFFINITY if key else "")
        return traffic.desk(
            wishes.constraints, shape, deadline_s, policy=AFFINITY if is_bound else policy
        )

    def _copy(
        self,
        call: InferCall,
        mirror: Mirror,
        constraints: Constraints,
        key: str,
        deadline_s: float,
    ) -> None:
        """Send a copy to the shadow version; nobody waits for it. It goes nowhere that the request may not."""
        copied = call._replace(version=mirror.rule.version, priority=MAX_PRIORITY, is_bulk=True)
        task = asyncio.create_task(self._copied(copied, Wishes(constraints), key, deadline_s))
        self._copies.add(task)
        mirror.began()  # now and not when the task begins: a burst would pass the bound

        def ended(task: asyncio.Task[None]) -> None:
            self._copies.discard(task)
            mirror.ended()  # also of one that was cancelled before it began

        task.add_done_callback(ended)

    async def _copied(self, call: InferCall, wishes: Wishes, key: str, deadline_s: float) -> None:
        try:
            traffic = self._balancer.traffic(call.model, call.version)
            gate = self._gate(self._model(call.model), traffic)
            now_s = self._clock()
            gate.admit("", call.priority, call.is_bulk, now_s, deadline_s - now_s)
            desk = self._desk(call, traffic, wishes, key, deadline_s)
            gate.entered("", now_s)
            try:
                await self._dispatch.infer(call, traffic, desk, deadline_s, is_copy=True)
            finally:
                gate.left("", self._clock())
        except CapameshError:
            pass  # a copy's failure is nobody's
