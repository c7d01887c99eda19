"""Whole simulations: they repeat exactly, nothing is left over, and what goes wrong shows where it should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capamesh.protocol.errors import ConfigError, DeadlineExceeded
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.admission.controller import Permit
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.fleet.replica import Replica
from capamesh.router.requests.attempts import RequestAttempts
from capamesh.router.requests.call import Outcome
from capamesh.router.rules.model_rules import MirrorRule, ModelRules, RoutingRules
from capamesh.simulation.comparison import Comparison
from capamesh.simulation.errors import InvariantBroken
from capamesh.simulation.parallel import compare, run_scenario
from capamesh.simulation.request import SimRequest
from capamesh.simulation.results import Results
from capamesh.simulation.run import SimFleet, simulate
from capamesh.simulation.scenario import (
    Fault,
    FaultKind,
    ModelSpec,
    NetworkSpec,
    NodeGroup,
    RegionPair,
    RequestKind,
    Scenario,
    service_profile,
)
from capamesh.simulation.shipped import shipped_scenario

SMALL = Scenario(
    name="small",
    title="Four nodes",
    duration_s=4.0,
    load=0.6,
    nodes=(NodeGroup("n", 4),),
    models=(ModelSpec("m", service_profile(((1, 0.02),))),),
    requests=(RequestKind("r", "m", deadline_s=1.0),),
    routers=2,
)
"""About 480 requests."""


def ill(*faults: Fault, **changed: object) -> Results:
    return simulate(replace(SMALL, faults=faults, **changed), policy="p2c", seed=1)  # type: ignore[arg-type]


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    scenario = replace(SMALL, faults=(Fault(FaultKind.KILL, 1.0, 1.0, nodes=(0,)),))
    first, again, other = (simulate(scenario, policy="p2c", seed=seed) for seed in (1, 1, 2))
    assert first.to_json() == again.to_json()
    assert first.timeline != other.timeline
    # and the same requests come whatever the policy
    one, other = (simulate(SMALL, policy=policy, seed=1) for policy in ("random", "round-robin"))
    assert (one.policy, other.policy) == ("random", "round-robin")
    assert [m.requests for m in one.timeline] == [m.requests for m in other.timeline]
    assert one.p99_s != other.p99_s


def test_healthy_fleet_answers_everything_and_shares_it() -> None:
    parts: list[float] = []
    results = simulate(SMALL, policy="p2c", seed=1, progress=parts.append)
    assert 400 < results.requests < 560
    assert (results.answered, results.failed) == (results.requests, {})
    assert 0.02 < results.p50_s < 0.03
    assert sum(results.node_shares) == pytest.approx(1.0)
    assert min(results.node_shares) > 0.2
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


FIRST = (0,)


@pytest.mark.parametrize(
    ("fault", "answered", "share"),
    [
        (Fault(FaultKind.KILL, 1.0, nodes=FIRST), 1.0, 0.1),
        (Fault(FaultKind.FAST_ERRORS, 1.0, nodes=FIRST), 0.98, 0.15),  # no sinkhole
        (Fault(FaultKind.SILENT, 1.0, nodes=FIRST), 0.98, 0.15),
        (Fault(FaultKind.FREEZE, 1.0, 1.0, nodes=FIRST), 0.98, 1.0),
        (Fault(FaultKind.LIAR, 0.0, nodes=FIRST), 1.0, 0.4),
        # it ends, though the fault does so later
        (Fault(FaultKind.KILL, 3.0, 10.0, nodes=FIRST), 1.0, 1.0),
        (Fault(FaultKind.RESTART, 3.0, 10.0, nodes=FIRST), 1.0, 1.0),
        (Fault(FaultKind.FREEZE, 1.0, 40.0, nodes=FIRST), 0.98, 1.0),
    ],
    ids=lambda each: each.kind if isinstance(each, Fault) else "",
)
def test_node_that_is_ill_costs_next_to_no_request_and_gets_few(
    fault: Fault, answered: float, share: float
) -> None:
    results = ill(fault)
    assert results.requests > 400
    assert answered <= results.answered / results.requests
    assert results.node_shares[0] < share
    if fault.kind is FaultKind.FAST_ERRORS:
        assert results.verdicts["inhibited"] > 0


def test_request_that_may_not_run_twice_fails_with_its_node() -> None:
    unsafe = RequestKind("r", "m", deadline_s=1.0, is_safe=False)
    fault = Fault(FaultKind.KILL, 1.0, 0.2, nodes="all", stagger_s=0.7)
    assert set(ill(fault, requests=(unsafe,), load=0.9).failed) == {"link_lost"}


@pytest.mark.seeds
@pytest.mark.parametrize("kind", [FaultKind.BLAMES, FaultKind.FAST_ERRORS, FaultKind.SILENT])
@pytest.mark.parametrize(("honest", "liars"), [(1, 1), (1, 4), (3, 6)])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_liars_of_one_invite_fail_no_request_that_another_invite_answers(
    kind: FaultKind, honest: int, liars: int, share: float
) -> None:
    results = ill(
        Fault(kind, 1.0, nodes=tuple(range(honest, honest + liars)), share=share),
        nodes=(NodeGroup("honest", honest, invite="one"), NodeGroup("liars", liars, invite="two")),
        requests=(RequestKind("r", "m", deadline_s=30.0),),
        load=0.4 * honest / (honest + liars),
        duration_s=30.0,
    )
    assert (results.failed, results.answered) == ({}, results.requests)


def test_liars_among_the_killed_and_the_frozen_fail_next_to_nothing() -> None:
    results = ill(
        Fault(FaultKind.BLAMES, 1.0, nodes=(2,)),
        Fault(FaultKind.FAST_ERRORS, 1.0, nodes=(3,)),
        Fault(FaultKind.KILL, 8.0, nodes=(4,)),
        Fault(FaultKind.FREEZE, 16.0, 60.0, nodes=(5,)),
        nodes=(
            NodeGroup("well", 2, invite="one"),
            NodeGroup("liars", 2, invite="two"),
            NodeGroup("ill", 2, invite="one"),
        ),
        requests=(RequestKind("r", "m", deadline_s=10.0),),
        load=0.2,
        duration_s=30.0,
    )
    assert results.requests - results.answered <= results.requests / 1000


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.RESTART, 0.5, 0.3, nodes="all", stagger_s=0.8),
        # it starts again after the last request
        Fault(FaultKind.RESTART, 3.0, 3.0, nodes=FIRST),
        Fault(FaultKind.KILL, 3.0, 3.0, nodes=FIRST),
    ],
    ids=str,
)
def test_restart_loses_nothing_and_does_not_keep_the_simulation(fault: Fault) -> None:
    results = ill(fault, load=0.4)
    assert results.answered == results.requests


@pytest.mark.full
def test_liar_is_not_taken_to_run_many_requests_at_a_time() -> None:
    scenario = replace(shipped_scenario("liar"), duration_s=20.0)
    assert simulate(scenario, policy="prequal", seed=1).p99_s < 0.05


@pytest.mark.full
def test_liar_costs_no_tenant_its_share_of_a_full_fleet() -> None:
    results = ill(
        Fault(FaultKind.LIAR, 0.0, nodes=(0,)),
        nodes=(NodeGroup("n", 6),),
        load=2.0,
        duration_s=10.0,
        routers=1,
        requests=(
            RequestKind("quiet", "m", share=1.0, deadline_s=8.0, tenant="quiet"),
            RequestKind("flood", "m", share=19.0, deadline_s=8.0, tenant="flood"),
        ),
    )
    quiet, flood = results.kinds
    assert quiet.answered >= 0.99 * quiet.requests > 200
    assert flood.answered < 0.7 * flood.requests
    assert results.extra_share <= 0.25


@pytest.mark.parametrize(("rate_per_s", "duration_s"), [(5.0, 300.0), (100.0, 20.0)])
def test_retries_add_a_quarter_at_most_where_all_requests_fail(
    rate_per_s: float, duration_s: float
) -> None:
    scenario = shipped_scenario("all-errors").shortened(duration_s, 0.0)
    scenario = replace(scenario, load=rate_per_s / scenario.capacity_per_s)
    results = simulate(scenario, policy="prequal", seed=1)
    assert results.answered == 0
    assert 0.15 < results.extra_share <= 0.25


def test_regions_and_partitions() -> None:
    results = ill(
        Fault(FaultKind.PARTITION, 1.0, 1.5, between=("eu", "us")),
        network=NetworkSpec(pairs=(RegionPair("eu", "us", 0.04),)),
        nodes=(NodeGroup("e", 2, region="eu"), NodeGroup("u", 2, region="us")),
        regions=("eu", "us"),
        load=0.3,
    )
    assert results.answered / results.requests > 0.95
    assert results.p99_s > 0.08


def test_node_that_is_gone_for_long_leaves_the_fleet_and_is_taken_in_again() -> None:
    fault = Fault(FaultKind.KILL, 1.0, 60.0, nodes=FIRST)
    scenario = replace(SMALL, duration_s=70.0, load=0.01, faults=(fault,))
    fleet = SimFleet(scenario, policy="p2c", seed=1)
    peer, known = fleet.nodes[0].peer, fleet.routers[0].fleet
    seen: list[tuple[bool, bool]] = []
    for until_s in (20.0, 30.0, 50.0, 65.0):
        fleet.events.run_until(until_s)
        is_suspected = any(each.is_suspected for each in known.endpoints_of(peer))
        seen.append((peer in known.adverts, is_suspected))
    # there, suspected, gone, there again and linked
    assert seen == [(True, False), (True, True), (False, False), (True, False)]
    assert known.is_linked(peer)
    assert fleet.finish().failed == {}


@pytest.mark.full
def test_router_without_a_gate_lets_everything_in_also_when_nodes_refuse() -> None:
    quick = (RequestKind("r", "m", deadline_s=0.2),)
    results, gated = (ill(load=3.0, has_gate=has, requests=quick) for has in (False, True))
    assert results.let_in == results.requests
    assert gated.let_in < 0.7 * gated.requests
    results = ill(load=3.0, has_gate=False, models=(replace(SMALL.models[0], max_in_flight=2),))
    assert results.failed["overloaded"] > 100  # by the nodes
    assert results.let_in == results.requests


def test_versions_share_the_requests_by_their_weights_and_a_shadow_gets_copies() -> None:
    old, new, shadow = (replace(SMALL.models[0], version=version) for version in ("1", "2", "3"))
    weights = ((ModelVersion("1"), 3.0), (ModelVersion("2"), 1.0))
    mirror = MirrorRule(ModelVersion("3"), 0.1)
    rules = RoutingRules(models={ModelName("m"): ModelRules(weights=weights, mirror=mirror)})
    scenario = replace(SMALL, models=(old, new, shadow), rules=rules, load=0.2)
    fleet = SimFleet(scenario, policy="p2c", seed=1)
    fleet.events.run_until(scenario.duration_s)
    results = fleet.finish()
    ran = [
        sum(node.models[ModelName("m"), version].batcher.meter.rows for node in fleet.nodes)
        for version in map(ModelVersion, ("1", "2", "3"))
    ]
    assert results.answered == results.requests == results.let_in
    assert results.attempts < results.requests + ran[2]  # copies are nobody's attempts
    assert ran[0] + ran[1] >= results.requests > 100
    assert 0.15 < ran[1] / (ran[0] + ran[1]) < 0.35
    assert 0.05 < ran[2] / results.requests < 0.15


def test_routers_ping_their_links_so_that_a_wrong_round_trip_is_forgotten() -> None:
    fleet = SimFleet(replace(SMALL, duration_s=60.0, load=0.01), policy="p2c", seed=1)
    fleet.events.run_until(1.0)
    networks = [one.network for router in fleet.routers for one in router.fleet.endpoints()]
    for network in networks:
        network.rtt_s = network.trip_s = 1.0
    fleet.events.run_until(60.0)
    assert min(each.rtt_s for each in networks) > 0.0004
    assert max(each.trip_s for each in networks) < 0.1  # 0.875 ** 29 of it is left
    fleet.finish()


def test_every_kind_of_request_and_model_has_its_own_numbers() -> None:
    models = (SMALL.models[0], replace(SMALL.models[0], name="k", batch_rows=8))
    kinds = (RequestKind("a", "m", keys=3), RequestKind("b", "k", rows=2, size_bytes=999))
    results = ill(models=models, requests=kinds)
    assert [kind.name for kind in results.kinds] == ["a", "b"]
    assert all(kind.answered == kind.requests > 0 for kind in results.kinds)
    assert ill(Fault(FaultKind.SURGE, 1.0, 1.0, factor=4.0)).requests > 700


def test_what_cannot_be_simulated_or_compared_is_refused() -> None:
    mixed = (SMALL.requests[0], RequestKind("unsafe", "m", is_safe=False))
    for run, said in (
        (lambda: ill(requests=mixed), "some requests for model 'm' may run twice"),
        (lambda: run_scenario(SMALL, policy="luck", seed=1), "'luck' is unknown; known: affinity"),
        (lambda: compare(SMALL, ["p2c"], [1, 1]), r"seeds \[1, 1\]: at least one, each once"),
        (lambda: compare(SMALL, [], [1]), r"policies \[\]: at least one"),
    ):
        with pytest.raises(ConfigError, match=said):
            run()


# what must be noticed


def test_counter_that_is_not_given_back_and_a_second_outcome_are_noticed() -> None:
    fleet = SimFleet(replace(SMALL, duration_s=0.5), policy="p2c", seed=1)
    fleet.events.run_until(0.5)
    replica: Replica = fleet.routers[0].parts.balancer.served_models()[0].replicas[0]
    replica.rif += 1
    with pytest.raises(InvariantBroken, match="there are in flight at replicas, router 0: 1"):
        fleet.finish()
    request = SimRequest(SMALL.requests[0], fleet.events, fleet.recorder)
    request.fail(DeadlineExceeded("late"))
    with pytest.raises(InvariantBroken, match="has a second outcome: deadline_exceeded"):
        request.fail(DeadlineExceeded("late"))


@pytest.mark.pure
@pytest.mark.parametrize(
    ("owner", "name", "instead", "said"),
    [
        (RequestAttempts, "start", lambda attempts, now_s: (), "requests without an outcome: "),
        (Permit, "release", lambda permit, now_s, *, is_served=True: None, "let in, router 0: "),
    ],
    ids=["nothing can end it", "permit is kept"],
)
def test_bug_of_a_router_is_noticed(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, instead: object, said: str
) -> None:
    monkeypatch.setattr(owner, name, instead)
    with pytest.raises(InvariantBroken, match=said):
        simulate(replace(SMALL, duration_s=0.5), policy="p2c", seed=1)


def test_request_whose_outcome_is_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = SimRequest.complete
    ended: list[SimRequest] = []

    def forgetful(request: SimRequest, outcome: Outcome) -> None:
        ended.append(request)
        if len(ended) != 5:
            real(request, outcome)

    monkeypatch.setattr(SimRequest, "complete", forgetful)
    with pytest.raises(InvariantBroken, match=r"requests without an outcome: 1$"):
        simulate(replace(SMALL, duration_s=0.5), policy="p2c", seed=1)


def test_bug_in_a_turn_of_the_watch_ends_the_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Balancer, "tick", crash)
    with pytest.raises(RuntimeError, match="a bug"):
        simulate(SMALL, policy="p2c", seed=1)


# side by side


def test_comparison_has_a_row_a_policy_and_a_picture() -> None:
    parts: list[float] = []
    scenario = replace(SMALL, duration_s=1.0)
    found = compare(scenario, ["random", "p2c"], [1, 2], parts.append)
    assert isinstance(found, Comparison)
    assert [(row.policy, row.seeds) for row in found.rows()] == [("random", 2), ("p2c", 2)]
    p99s_ms = [run.p99_s * 1e3 for run in found.results[:2]]
    row = found.rows()[0]
    assert (row.p99_least_ms, row.p99_most_ms) == (min(p99s_ms), max(p99s_ms))
    assert row.events_per_s > 0
    assert found.svg().startswith("<svg ")
    assert ">p2c<" in found.svg()
    assert (parts[-1], len(parts)) == (1.0, 400)


@pytest.mark.slow
def test_two_processes_find_what_one_finds() -> None:
    scenario = replace(SMALL, duration_s=0.5)
    one = compare(scenario, ["p2c"], [1, 2])
    two = compare(scenario, ["p2c"], [1, 2], processes=2)
    assert one.to_json() == two.to_json()
