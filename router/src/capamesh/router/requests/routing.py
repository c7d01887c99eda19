"""All requests of one router: what sends them on their way, and what it would do with one now. IO: dispatch."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import Overloaded
from capamesh.protocol.ids import ModelVersion
from capamesh.router.admission.shedding import rank_of
from capamesh.router.balancing.preview import foreseen
from capamesh.router.cache.store import DEFAULT_CACHE_BYTES
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.requests.models import RoutedModels
from capamesh.router.requests.pipeline import Pipeline, policy_of

if TYPE_CHECKING:
    from capamesh.protocol.fleet import Change
    from capamesh.protocol.ids import ModelName, PeerId
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.call import RoutingOptions
    from capamesh.router.requests.dispatch import Dispatch
    from capamesh.router.rules.constraints import Constraints
    from capamesh.router.rules.model_rules import RoutingRules
    from capamesh.router.timers import Timers

EVEN_ODDS = 0.5
"""The draw by which an explanation decides where chance would decide on a request: it tells what is more likely."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to the question whether a request would be let in now."""

    version: ModelVersion
    """The version that it would be for."""
    level: float
    """The level of the nodes: 0 is idle, 1 is full."""
    refusal: Overloaded | None
    """The error with which it would be refused; None: it would be let in."""


class Routing:
    """All requests of one router: `pipeline` sends them on their way."""

    def __init__(
        self,
        fleet: FleetView,
        balancer: Balancer,
        dispatch: Dispatch,
        rules: RoutingRules,
        *,
        rng: random.Random,
        clock: Callable[[], float],
        timers: Timers,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """`cache_bytes` is the most memory for kept answers."""
        self._fleet = fleet
        self._balancer = balancer
        self._rng = rng
        self.clock = clock
        """The clock of deadlines."""
        self._models = RoutedModels(fleet, balancer, rules, rng=rng)
        self.pipeline = Pipeline(
            fleet,
            balancer,
            dispatch,
            self._models,
            rng=rng,
            clock=clock,
            timers=timers,
            cache_bytes=cache_bytes,
        )

    @override
    def __repr__(self) -> str:
        copies = len(self.pipeline.copies)
        return f"Routing({len(self._models)} models, {copies} copies under way)"

    def admission(
        self,
        model: ModelName,
        version: ModelVersion,
        options: RoutingOptions,
        priority: int,
        remaining_s: float,
    ) -> Admission:
        """Return whether a request with so much time left would be let in now; nothing is counted or spent for it.

        Raises `ModelNotFound`.
        """
        now_s = self.clock()
        served = self._foreseen(model, version, options, now_s, copy.copy(self._rng))
        controller = served.admission
        rank = rank_of(priority)
        decision = controller.decide(
            served.replicas, options.tenant, priority, rank, now_s, remaining_s, lambda: EVEN_ODDS
        )
        return Admission(served.version, controller.saturation.level, decision.error)

    def explain(
        self,
        model: ModelName,
        version: ModelVersion,
        options: RoutingOptions,
        remaining_s: float = math.inf,
        *,
        is_let_in: bool = True,
    ) -> Explanation:
        """Return where a request would go now, and why; no later request goes elsewhere for it.

        Nobody is chosen where nobody may have it, nor for one that is not let in. Raises `ModelNotFound`.
        """
        now_s, rng = self.clock(), copy.copy(self._rng)
        served = self._foreseen(model, version, options, now_s, rng)
        shape = RequestShape(
            model, served.version, 0, options.affinity, beginnings=options.beginnings
        )
        return foreseen(
            served,
            options.constraints,
            shape,
            now_s + remaining_s,
            now_s,
            rng,
            policy=policy_of(options, served.rules.policy, options.affinity),
            is_let_in=is_let_in,
        )

    def _foreseen(
        self,
        model: ModelName,
        version: ModelVersion,
        options: RoutingOptions,
        now_s: float,
        rng: random.Random,
    ) -> ServedModel:
        """Return the served model that a request would be for if chance went on as `rng` does."""
        versions = self._models.of(model).versions.foreseen(rng)
        return versions.pick(version, options.affinity, options.constraints, now_s)

    def take_rules(self, rules: RoutingRules) -> None:
        """Route by other rules from now on; what is under way ends by those that it began with."""
        self._models.take_rules(rules)
        self.pipeline.cache.clear()

    def constraints(self, model: ModelName) -> Constraints:
        """Return what the operator's rules ask of who runs the model."""
        return self._models.rules.of(model).constraints

    def wake(self) -> None:
        """Let who waits for a link look again: others may be asked now."""
        self._balancer.links.linked()
        self.pipeline.cold.wake()

    def heard(self, changes: Sequence[Change]) -> None:
        """Let who waits look again because nodes came, went or say something else."""
        if changes:
            self._balancer.links.linked()
            self.pipeline.cold.heard(changes)

    def reached(self, peer: PeerId) -> None:
        """Let who waits for a load look again: a node has a link, of which the balancer knows."""
        self.pipeline.cold.reached(peer)

    def tick(self) -> None:
        """Forget models that nobody hosts any more; to be called now and then."""
        self._fleet.absent.tick(self.clock())
        self._models.tick()

    def close(self) -> None:
        """End the copies that are under way."""
        self.pipeline.copies.close()
