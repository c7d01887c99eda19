"""The state that the requests of one model share: its versions and its mirror. Pure.

It is made at a model's first request and forgotten with the model.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from capamesh.router.requests.mirror import Mirror
from capamesh.router.requests.split import VersionSplit
from capamesh.router.requests.versions import Versions

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.rules.model_rules import ModelRules, RoutingRules


class RoutedModel:
    """One model, as its requests are routed."""

    __slots__ = ("mirror", "versions")

    def __init__(self, versions: Versions, rules: ModelRules) -> None:
        self.versions = versions
        self.mirror = Mirror(rules.mirror) if rules.mirror is not None else None

    @property
    def copies(self) -> int:
        """Copies of its requests that are under way."""
        return 0 if self.mirror is None else self.mirror.under_way

    def take_rules(self, rules: ModelRules, versions: Versions) -> None:
        """Route by other rules from now on."""
        self.versions = versions
        # the same one goes on, and counts its copies under way
        if self.mirror is None or self.mirror.rule != rules.mirror:
            self.mirror = Mirror(rules.mirror) if rules.mirror is not None else None


class RoutedModels:
    """All models of one router that are asked for."""

    def __init__(
        self, fleet: FleetView, balancer: Balancer, rules: RoutingRules, *, rng: random.Random
    ) -> None:
        self._fleet = fleet
        self._balancer = balancer
        self.rules = rules
        self._rng = rng
        self._models: dict[ModelName, RoutedModel] = {}

    def __len__(self) -> int:
        return len(self._models)

    def of(self, name: ModelName) -> RoutedModel:
        """Return a model, which is kept if the fleet has it: else anyone could fill the memory with names."""
        model = self._models.get(name)
        if model is None:
            model = RoutedModel(self._versions(name), self.rules.of(name))
            if self._fleet.versions_ready(name):
                self._models[name] = model
        return model

    def take_rules(self, rules: RoutingRules) -> None:
        """Route by other rules from now on; what is under way ends by those that it began with."""
        self.rules = rules
        for name, model in self._models.items():
            model.take_rules(rules.of(name), self._versions(name))

    def tick(self) -> None:
        """Forget models that nobody hosts any more, once none of their copies is under way."""
        for name, model in list(self._models.items()):
            if not self._fleet.versions_ready(name) and not model.copies:
                del self._models[name]

    def _versions(self, name: ModelName) -> Versions:
        return Versions(
            name,
            VersionSplit(self.rules.of(name).weights),
            fleet=self._fleet,
            balancer=self._balancer,
            rng=self._rng,
        )
