"""Rules that change while a router runs: what goes by them at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fleet_fakes import Fleet, InOrder, call, echo

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.rules.constraints import Constraints
from capamesh.router.rules.model_rules import NO_RULES, ModelRules, RoutingRules

M = ModelName("m")
V1, V2 = ModelVersion("1"), ModelVersion("2")


def rules(**values: Any) -> RoutingRules:
    return RoutingRules(models={M: ModelRules(**values)})


async def answered(fleet: Fleet, times: int = 20) -> Counter[str]:
    return Counter(
        [
            (await fleet.infer(call(), NO_OPTIONS, fleet.clock() + 30)).answer.version
            for _ in range(times)
        ]
    )


async def test_another_policy_and_other_limits_hold_from_the_next_request_on() -> None:
    fleet = Fleet([echo], [echo])
    await answered(fleet, 1)
    served = fleet.served()
    first = served.policy
    only_us = Constraints(regions=frozenset({"us"}))
    fleet.take_rules(rules(policy="round-robin", constraints=only_us, is_hedged=False))
    assert (served.policy.name, served.hedging.is_enabled) == ("round-robin", False)
    explanation = fleet.routing.explain(M, V1, NO_OPTIONS)
    assert (explanation.policy, explanation.chosen) == ("round-robin", ())
    assert explanation.replicas[0].refusal == "region eu is not us"
    assert fleet.routing.explain(M, V1, RoutingOptions(policy=InOrder.name)).policy == InOrder.name
    fleet.take_rules(NO_RULES)
    assert served.policy is first  # what it knows is kept
    assert served.hedging.is_enabled
    await answered(fleet, 1)
