"""Rules that change while a router runs: what goes by them at once."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fleet_fakes import Fleet, InOrder, call, echo, hang, in_virtual_time, offer

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.admission.fair_share import FairShare, Standing
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.rules.constraints import Constraints
from capamesh.router.rules.model_rules import NO_RULES, MirrorRule, ModelRules, RoutingRules

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


@in_virtual_time
async def test_other_weights_and_mirrors_hold_from_the_next_request_on() -> None:
    fleet = Fleet(rules=rules(weights=((V1, 1.0),), mirror=MirrorRule(V2, 1.0)))
    fleet.node("A", echo, models=(offer(version="1"),))
    shadow = fleet.node("B", hang, echo, models=(offer(version="2"),))
    assert await answered(fleet, 1) == {"1": 1}
    assert len(shadow.asks) == 1  # a copy, which hangs
    fleet.take_rules(rules(weights=((V1, 1.0),), mirror=MirrorRule(V2, 1.0)))
    mirror = fleet.routing._models.of(M).mirror
    assert mirror is not None
    assert mirror.under_way == 1  # the same: it still counts
    fleet.take_rules(rules(weights=((V2, 1.0),)))
    assert await answered(fleet) == {"2": 20}
    assert len(shadow.asks) == 21
    fleet.routing.close()
    assert fleet.counts == {}


@in_virtual_time
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


def test_other_weights_of_tenants_count_for_what_is_under_way() -> None:
    fair = FairShare({"a": 1.0, "b": 1.0})
    for _ in range(6):
        fair.enter("a", 0.0)
    fair.enter("b", 0.0)
    assert fair.standing("a", 8, 0.0) is Standing.FAIR
    fair.reweigh({"a": 7.0})
    assert fair.standing("a", 8, 0.0) is Standing.WITHIN
    fair.reweigh({"b": 7.0})
    assert fair.standing("a", 8, 0.0) is not Standing.WITHIN
    for tenant in ["a"] * 6 + ["b"]:
        fair.leave(tenant, 0.0)
    assert fair._busy_weight == 0
