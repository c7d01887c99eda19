"""What the requests of one model have in common: its versions, its mirror and the admission to each version. Pure.

It is made at a model's first request and forgotten with the model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from capamesh.router.admission.controller import AdmissionController
from capamesh.router.requests.mirror import Mirror
from capamesh.router.requests.split import VersionSplit
from capamesh.router.requests.versions import Versions

if TYPE_CHECKING:
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.rules.model_rules import ModelRules, RoutingRules


class RoutedModel:
    """One model, as its requests are routed."""

    __slots__ = ("_rng", "_rules", "controllers", "mirror", "versions")

    def __init__(self, versions: Versions, rules: ModelRules, rng: random.Random) -> None:
        self.versions = versions
        self.mirror = Mirror(rules.mirror) if rules.mirror is not None else None
        self.controllers: dict[ModelVersion, AdmissionController] = {}
        self._rules = rules
        self._rng = rng

    def take_rules(self, rules: ModelRules, versions: Versions) -> None:
        """Route by other rules from now on."""
        self._rules = rules
        self.versions = versions
        # the same one goes on, and counts its copies under way
        if self.mirror is None or self.mirror.rule != rules.mirror:
            self.mirror = Mirror(rules.mirror) if rules.mirror is not None else None
        for controller in self.controllers.values():
            controller.reweigh(dict(rules.tenants))

    def controller(self, served: ServedModel) -> AdmissionController:
        """Return who admits requests to a version, and have it told of the refusals of nodes."""
        controller = self.controllers.get(served.version)
        if controller is None:
            controller = self.controllers[served.version] = AdmissionController(
                served.model,
                partial(getattr, served.hosted, "replicas"),
                self._rng,
                weights=dict(self._rules.tenants),
            )
        # the version is new, or was forgotten while requests kept its controller
        if served.on_refused is None:
            served.on_refused = controller.refused
            served.is_full = lambda: controller.is_contested
        return controller


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

    @property
    def under_way(self) -> int:
        """Requests that were let in and have not ended."""
        return sum(
            controller.under_way
            for model in self._models.values()
            for controller in model.controllers.values()
        )

    def refusals(self) -> Iterator[tuple[tuple[str, str, str], int]]:
        """Yield how many requests were not let in, by model, version and reason."""
        for name, model in self._models.items():
            for version, controller in model.controllers.items():
                for reason, count in controller.refusals.items():
                    if count:
                        yield (name, version, reason), count

    def of(self, name: ModelName) -> RoutedModel:
        """Return a model, which is kept if the fleet has it: else anyone could fill the memory with names."""
        model = self._models.get(name)
        if model is None:
            model = RoutedModel(self._versions(name), self.rules.of(name), self._rng)
            if self._fleet.versions_ready(name):
                self._models[name] = model
        return model

    def take_rules(self, rules: RoutingRules) -> None:
        """Route by other rules from now on; what is under way ends by those that it began with."""
        self.rules = rules
        for name, model in self._models.items():
            model.take_rules(rules.of(name), self._versions(name))

    def tick(self) -> None:
        """Forget models and versions that nobody hosts any more, once none of their requests is under way."""
        for name, model in list(self._models.items()):
            ready = self._fleet.versions_ready(name)
            for version, controller in list(model.controllers.items()):
                if version not in ready and not controller.under_way:
                    del model.controllers[version]
            if not ready and not model.controllers:
                del self._models[name]

    def _versions(self, name: ModelName) -> Versions:
        return Versions(
            name,
            VersionSplit(self.rules.of(name).weights),
            fleet=self._fleet,
            balancer=self._balancer,
            rng=self._rng,
        )
