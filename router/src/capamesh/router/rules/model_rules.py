"""The rules by which each model's requests are routed, as an operator says them. Pure values.

The rules are complete: what the operator says nothing about has its default in them. They flow one way: they are read
from a file, and each part of a router that goes by them is given them (`take_rules`) and keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.rules.constraints import ANYWHERE, Constraints

DEFAULT_POLICY: Final = "prequal"


@dataclass(frozen=True, slots=True)
class MirrorRule:
    """Copies of a model's requests go to another version too; nobody waits for or sees its answers."""

    version: ModelVersion
    share: float
    """The part of the requests, above 0 and at most 1."""


@dataclass(frozen=True, slots=True)
class CacheRule:
    """A model's answers are kept, and given to whoever asks the same."""

    ttl_s: float
    """The seconds for which an answer is kept."""
    is_shared: bool = False
    """True if a tenant gets the answers that were run for others."""


@dataclass(frozen=True, slots=True)
class ModelRules:
    """The rules of one model's requests."""

    policy: str = DEFAULT_POLICY
    """The policy of requests that ask for no other."""
    weights: tuple[tuple[ModelVersion, float], ...] = ()
    """The weights of versions, by which requests that name none are split; empty: the newest has them all."""
    mirror: MirrorRule | None = None
    is_hedged: bool = True
    """True if a second node may be asked when the first is slow."""
    is_retried: bool = True
    """True if another node may be asked when it is unknown what became of the request at the first."""
    constraints: Constraints = ANYWHERE
    """The constraints on nodes, beside what a request's own options ask."""
    tenants: tuple[tuple[str, float], ...] = ()
    """Weights of the tenants' shares when there is not room for all; who is not named has that of "*", or 1."""
    digests: Mapping[ModelVersion, str] = field(default_factory=dict[Any, str])
    """The digest that each version must have: nodes that host another file under it are not asked."""
    cache: CacheRule | None = None
    """The rule by which answers are kept; None: none is."""
    publishers: frozenset[str] | None = None
    """Only files that one of them has signed are served, given as peer ids; None: those of the network may sign."""

    def weighted(self) -> frozenset[ModelVersion]:
        """Return the versions that requests are split among."""
        return frozenset([version for version, weight in self.weights if weight])


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """The rules of all models."""

    every: ModelRules = ModelRules()
    """The rules of models that have none of their own."""
    models: Mapping[ModelName, ModelRules] = field(default_factory=dict[ModelName, ModelRules])

    def of(self, model: ModelName) -> ModelRules:
        """Return the model's rules."""
        return self.models.get(model, self.every)


NO_RULES: Final = RoutingRules()
"""The rules where the operator says nothing."""
