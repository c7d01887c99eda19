"""A version that is not trusted: who gets it, and that no request depends on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fleet_fakes import (
    FakeLink,
    Fleet,
    Reply,
    answer_of,
    answering,
    call,
    echo,
    failing,
    fp32,
    offer,
)

from capamesh.protocol.adverts import ModelOffer
from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import InferCall
from capamesh.router.ownership.owners import Owners
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.rules.model_rules import NO_RULES, ModelRules, RoutingRules

EVIL = ModelVersion("999999999999999999")


def other(version: str = EVIL) -> ModelOffer:
    return replace(offer("m", version), digest="sha256-chunks:" + "e" * 64)


async def infer(
    fleet: Fleet, asked: InferCall | None = None, options: RoutingOptions = NO_OPTIONS
) -> str:
    outcome = await fleet.infer(asked or call(), options, fleet.clock() + 30.0)
    return outcome.replica.endpoint.peer


def attacked(evil: Reply, *, rules: RoutingRules = NO_RULES) -> tuple[Fleet, FakeLink]:
    """Return a fleet of two honest nodes, in which another, with an invite of its own, brings a higher version."""
    fleet = Fleet(owners=Owners(rules=rules), rules=rules)
    for peer in "AB":
        fleet.node(peer, echo, invite="honest")
    link = fleet.node("X", evil, models=(other(),), invite="evil")
    return fleet, link


WRONG = answering(answer_of(EVIL, fp32("y", [42, 42])))


async def test_version_on_trial_answers_at_most_a_hundredth_of_the_requests() -> None:
    fleet, link = attacked(WRONG)
    answered = Counter([await infer(fleet) for _ in range(1050)])
    assert answered["X"] == len(link.asks) == 10
    assert await infer(fleet, call("m", EVIL)) == "X"


async def test_request_with_a_key_or_that_must_not_run_twice_is_never_sent_on_trial() -> None:
    fleet, link = attacked(WRONG)
    for number in range(300):
        await infer(fleet, options=RoutingOptions(affinity=f"key {number}"))
    assert link.asks == []
    fleet = Fleet(owners=Owners())
    fleet.node("A", echo, models=(offer(is_idempotent=False),), invite="honest")
    link = fleet.node("X", WRONG, models=(other(),), invite="evil")
    for _ in range(300):
        await infer(fleet)
    assert link.asks == []


async def test_pinned_model_s_other_versions_get_nothing_and_its_other_files_neither() -> None:
    pinned = RoutingRules(ModelRules(digests={ModelVersion("1"): offer().digest}))
    fleet, link = attacked(WRONG, rules=pinned)
    same = fleet.node("Y", WRONG, models=(other("1"),), invite="evil")
    for _ in range(500):
        assert await infer(fleet) in {"A", "B"}
        assert await infer(fleet, call("m", "1")) in {"A", "B"}
    assert link.asks == []
    assert same.asks == []


async def test_wrong_answer_on_trial_is_counted_against_its_replica() -> None:
    fleet, link = attacked(failing(InvalidRequest("your request is wrong")))
    for _ in range(2000):
        await infer(fleet)
    assert fleet.endpoints[2].failed == len(link.asks)
