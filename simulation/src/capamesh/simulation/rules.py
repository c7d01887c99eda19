"""The rules by which the routers of a scenario route, made of what it says of its requests. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from capamesh.protocol.errors import ConfigError
from capamesh.protocol.ids import ModelName
from capamesh.router.rules.model_rules import RoutingRules

if TYPE_CHECKING:
    from capamesh.simulation.scenario import Scenario


def rules_of(scenario: Scenario, policy: str) -> RoutingRules:
    """Return a scenario's rules with a policy; what its requests say of retries and hedges comes beside them.

    Raises `ConfigError` when requests for one model differ in that: a router's rules are for all requests of a model.
    """
    models = dict(scenario.rules.models)
    for name in {model.name: None for model in scenario.models}:
        said = {(kind.is_safe, kind.is_hedged) for kind in scenario.requests if kind.model == name}
        if len(said) > 1:
            raise ConfigError(
                f"scenario {scenario.name}: some requests for model {name!r} may run twice or be hedged and others not;"
                " routers hold one rule for all of a model: give the others a model of their own"
            )
        for is_safe, is_hedged in said:
            rules = scenario.rules.of(ModelName(name))
            models[ModelName(name)] = replace(
                rules, policy=policy, is_retried=is_safe, is_hedged=is_hedged
            )
    return RoutingRules(replace(scenario.rules.every, policy=policy), models)
