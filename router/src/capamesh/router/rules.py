"""What an operator says about how each model's requests are routed. Pure values; `process.rules_keys` reads them.

A table for each model by its name; the table "*" holds for all, and a model's own table replaces it key by key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from capamesh.protocol.ids import ModelName, ModelVersion


@dataclass(frozen=True, slots=True)
class MirrorRule:
    """Copies of a model's requests go to another version too; nobody waits for or sees its answers."""

    version: ModelVersion
    share: float
    """Which part of the requests, above 0 and at most 1."""


@dataclass(frozen=True, slots=True)
class ModelRules:
    """How one model's requests are routed."""

    policy: str = ""
    """Empty: the router's own."""
    weights: tuple[tuple[ModelVersion, float], ...] = ()
    """How requests that name no version are split; empty: the newest has them all."""
    mirror: MirrorRule | None = None
    is_hedged: bool = True
    """Whether a second node may be asked when the first is slow."""
    is_retried: bool = True
    """Whether another node may be asked when it is unknown what became of the request at the first."""
    max_price: float = math.inf
    """For a million, as nodes advertise it; dearer nodes are not asked."""
    regions: tuple[str, ...] = ()
    """Nodes elsewhere are not asked; empty: all."""
    device_kinds: tuple[str, ...] = ()
    """Likewise, of devices."""
    tenants: tuple[tuple[str, float], ...] = ()
    """Weights of the tenants' shares when there is not room for all; who is not named has that of "*", or 1."""
    digests: tuple[tuple[ModelVersion, str], ...] = ()
    """The digest that each version must have: nodes that replica another file under it are not asked."""
    publishers: tuple[str, ...] | None = None
    """Only files that one of them has signed are served, given as peer ids; None: those of the network may sign."""


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """The rules of all models."""

    every: ModelRules = ModelRules()
    models: Mapping[ModelName, ModelRules] = field(default_factory=dict[ModelName, ModelRules])

    def of(self, model: ModelName) -> ModelRules:
        """Return the model's rules."""
        return self.models.get(model, self.every)
