"""A request's way: its version, its controller, who chooses, and who gets a copy."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fleet_fakes import (
    Ask,
    FakeLink,
    Fleet,
    InOrder,
    Reply,
    advert,
    after,
    call,
    echo,
    failing,
    fp32,
    garbage,
    hang,
    in_virtual_time,
    linked,
    offer,
)

from capamesh.protocol.errors import (
    CapameshError,
    Draining,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    Overloaded,
    RunFailed,
)
from capamesh.protocol.fleet import Joined, Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.links.sequence_mark import SequenceMark
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.policies import POLICIES
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.resilience.health import CircuitState
from capamesh.router.rules.constraints import Constraints
from capamesh.router.rules.model_rules import MirrorRule, ModelRules, RoutingRules

M = ModelName("m")
V1, V2 = ModelVersion("1"), ModelVersion("2")
MIRRORED = RoutingRules(ModelRules(mirror=MirrorRule(V2, 1.0)))


def controllers(fleet: Fleet) -> dict[str, Any]:
    return {each.version: each.admission for each in fleet.balancer.served_models()}


async def infer(
    fleet: Fleet,
    asked: InferCall | None = None,
    options: RoutingOptions = NO_OPTIONS,
    allowed_s: float = 30.0,
) -> str:
    """Route a request and return who answered."""
    outcome = await fleet.infer(asked or call(), options, fleet.clock() + allowed_s)
    return outcome.replica.endpoint.peer


def shadowed(fleet: Fleet, first: Any = echo, second: Any = echo) -> tuple[FakeLink, FakeLink]:
    """Add A, which serves version 1, and B, which serves version 2 as the scripts say."""
    one = fleet.node("A", first, models=(offer(version="1"),))
    return one, fleet.node("B", second, models=(offer(version="2"),))


def learn(fleet: Fleet, version: str, times: int = 20) -> None:
    """Let a version have answered in 10 ms, so that it is known when one is slow."""
    served = fleet.served(version)
    for _ in range(times):
        served.window.add(0.01, 0.0)
        served.hedging.sent(0.0)


# versions


async def test_newest_version_is_asked_unless_one_is_named_and_the_node_is_reported_which() -> None:
    fleet = Fleet()
    one, two = shadowed(fleet)
    assert await infer(fleet) == "B"
    assert await infer(fleet, call("m", "1")) == "A"
    assert [[asked.version for asked in link.calls] for link in (one, two)] == [["1"], ["2"]]
    with pytest.raises(ModelNotFound, match="no version '3'; its versions: 1, 2"):
        await infer(fleet, call("m", "3"))
    with pytest.raises(ModelNotFound, match="no node hosts model 'x'; hosted models: m"):
        await infer(fleet, call("x"))
    assert fleet.counts == {}


OUT: dict[str, Callable[[Fleet], object]] = {
    "killed": lambda fleet: fleet.links[1].end("killed"),
    "draining": lambda fleet: setattr(fleet.endpoints[1], "is_draining", True),
    "forced open": lambda fleet: fleet.endpoints[1].health.hold(CircuitState.FORCED_OPEN),
    "never dialled": lambda fleet: setattr(fleet.endpoints[1], "link", None),
    "silent": lambda fleet: fleet.endpoints[1].health.failed(0.0, is_hard=True, cause="silent"),
}


@pytest.mark.parametrize("name", OUT)
async def test_next_older_version_answers_while_the_newest_s_only_node_is_out(name: str) -> None:
    fleet = Fleet()
    shadowed(fleet)
    assert await infer(fleet) == "B"
    OUT[name](fleet)
    keyed = [] if name == "silent" else [RoutingOptions(affinity="k")]
    for options in (NO_OPTIONS, *keyed, RoutingOptions(policy="p2c")):
        outcome = await fleet.infer(call(), options, fleet.clock() + 30.0)
        assert (outcome.peer, outcome.attempts, outcome.answer.version) == ("A", 1, "1")
    explanation = fleet.routing.explain(M, ModelVersion(""), NO_OPTIONS)
    assert (explanation.version, explanation.chosen) == ("1", ("A",))
    assert fleet.routing.admission(M, ModelVersion(""), NO_OPTIONS, 128, 30.0).version == "1"
    assert set(controllers(fleet)) == {"1", "2"}
    sequence = call().replace(sequence=SequenceMark(7, is_start=True))
    assert await infer(fleet, sequence) == ("B" if name == "silent" else "A")
    assert (fleet.clock(), fleet.counts) == (0.0, {})


async def test_waiting_request_looks_again_when_a_hold_is_over() -> None:
    fleet = Fleet([echo], [echo])
    fleet.links[0].end("killed")
    fleet.replicas[1].health.hold(CircuitState.FORCED_OPEN)
    task = asyncio.create_task(infer(fleet))
    await asyncio.sleep(0.1)
    fleet.replicas[1].health.hold(None)
    fleet.routing.wake()
    assert await task == "B"
    assert fleet.clock() == pytest.approx(0.1)


async def test_node_that_dials_in_anew_is_asked_once_more_be_it_the_same_process_or_not() -> None:
    for process in (b"first", b"second"):
        fleet = Fleet()
        fleet.view.apply([Joined(advert("A"))])
        links = []
        for number, script in enumerate([hang, echo]):
            endpoint = Endpoint(PeerId("A"), f"dialled-in-{number}")
            links.append(linked(endpoint, script))
            endpoint.process = b""
            links[-1].peer_process = process if number else b"first"
            fleet.view.visit(endpoint)
            fleet.balancer.linked(endpoint, fleet.clock())
            if not number:
                task = asyncio.create_task(infer(fleet))
                await asyncio.sleep(0.1)
                links[0].end("a switch restarts")
                fleet.view.leave(endpoint)
                await asyncio.sleep(0.1)
        assert await task == "A"
        assert len(links[1].asks) == 1


async def test_versions_are_passed_by_one_by_one_and_the_newest_tells_why_none_can_be_had() -> None:
    fleet = Fleet()
    for peer, version in zip("ABC", ["9", "10", "11"], strict=True):
        fleet.node(peer, echo, models=(offer(version=version),))
    eu = RoutingOptions(Constraints(regions=frozenset({"eu"})))
    assert await infer(fleet, options=eu) == "C"
    fleet.replicas[2].advert = replace(fleet.replicas[2].advert, region="us")
    assert await infer(fleet, options=eu) == "B"
    assert await infer(fleet) == "C"
    for endpoint in fleet.endpoints[1:]:
        endpoint.is_draining = True
    assert await infer(fleet) == "A"
    fleet.endpoints[0].is_draining = True
    with pytest.raises(NoEndpoint, match=r"1 of 1: draining"):
        await infer(fleet)
    assert fleet.routing.explain(M, ModelVersion(""), NO_OPTIONS).version == "11"


@pytest.mark.parametrize("error", [LinkLost("gone"), Draining("bye"), ModelUnavailable("loading")])
async def test_request_whose_version_is_lost_under_it_is_answered_by_another(
    error: CapameshError,
) -> None:
    fleet = Fleet()
    one, _ = shadowed(fleet, echo, failing(error))
    first, second = fleet.served("1"), fleet.served("2")
    outcome = await fleet.infer(call(), NO_OPTIONS, 30.0)
    assert (outcome.replica.endpoint.peer, outcome.attempts) == ("A", 2)
    assert (outcome.answer.version, one.calls[0].version) == ("1", "1")
    assert (first.window.count, second.window.count) == (1, 0)
    assert fleet.endpoints[1].failed == isinstance(error, LinkLost)
    assert outcome.picker.explain(fleet.clock()).chosen == ("B", "A")
    assert fleet.counts == {}


@pytest.mark.parametrize(
    ("second", "wanted"), [(echo, "C"), (failing(RunFailed("no")), "A")], ids=["well", "fails"]
)
async def test_version_is_kept_after_one_failed_run_and_left_after_two(
    second: Reply, wanted: str
) -> None:
    fleet = Fleet(invites={"A": "other", "B": "own", "C": "own"})
    shadowed(fleet, echo, failing(RunFailed("no")))
    fleet.node("C", second, models=(offer(version="2"),))
    assert await infer(fleet) == wanted


async def test_full_version_is_not_relieved_by_another_nor_hedged_by_it() -> None:
    fleet = Fleet()
    shadowed(fleet, echo, failing(Overloaded("full")))
    with pytest.raises(Overloaded):
        await infer(fleet)
    fleet = Fleet()
    shadowed(fleet, echo, after(0.04, echo))
    learn(fleet, "2")
    assert await infer(fleet) == "B"
    assert fleet.asked == [0, 1]


async def test_request_that_may_have_run_goes_to_no_version_that_must_not_run_it_twice() -> None:
    fleet = Fleet()
    fleet.node("A", echo, models=(offer(is_idempotent=False),))
    fleet.node("B", failing(LinkLost("gone")), models=(offer(version="2"),))
    with pytest.raises(LinkLost):
        await infer(fleet)
    assert fleet.asked == [0, 1]
    OUT["killed"](fleet)
    assert await infer(fleet) == "A"  # nothing of it has run


async def test_request_that_waits_for_a_link_takes_the_first_of_any_version() -> None:
    fleet = Fleet()
    shadowed(fleet)
    for link in list(fleet.links):
        link.end("the router was frozen")
    task = asyncio.create_task(infer(fleet))
    await asyncio.sleep(0.1)
    assert fleet.counts == {"waiting": 1, "gates": 1}
    fleet.relink(0, echo)
    assert await task == "A"
    OUT["forced open"](fleet)
    fleet.links[-1].end("the router was frozen again")
    task = asyncio.create_task(infer(fleet))
    await asyncio.sleep(0.1)
    fleet.relink(0, echo)
    assert await task == "A"
    assert fleet.counts == {}


@pytest.mark.parametrize("name", OUT)
async def test_weight_of_a_version_that_is_out_is_spread_over_the_others(name: str) -> None:
    weights = ((V1, 3.0), (V2, 90.0), (ModelVersion("3"), 1.0))
    fleet = Fleet(rules=RoutingRules(ModelRules(weights=weights)))
    shadowed(fleet)
    fleet.node("C", echo, models=(offer(version="3"),))
    fleet.node("D", echo, models=(offer(version="4"),))
    OUT[name](fleet)
    answered = Counter([await infer(fleet) for _ in range(400)])
    assert 260 < answered["A"] < 340
    assert answered["A"] + answered["C"] == 400
    for key in "abcdef":
        assert len({await infer(fleet, options=RoutingOptions(affinity=key)) for _ in "ab"}) == 1
    for link in fleet.links[:3]:
        link.end("killed")
    with pytest.raises(NoEndpoint):  # and none goes to the version that has no weight
        await infer(fleet, allowed_s=0.1)
    assert fleet.asked[3] == 0


# the controller


async def test_version_s_gate_is_forgotten_with_it_once_nothing_is_under_way() -> None:
    fleet = Fleet()
    shadowed(fleet, hang)
    task = asyncio.create_task(infer(fleet, call("m", "1")))
    assert await infer(fleet) == "B"
    assert set(controllers(fleet)) == {"1", "2"}
    fleet.view.apply([Left(PeerId("A"), LeftReason.GOODBYE), Left(PeerId("B"), LeftReason.GOODBYE)])
    fleet.balancer.tick(fleet.clock())
    assert set(controllers(fleet)) == {"1"}
    assert fleet.balancer.under_way == 1
    task.cancel()
    await asyncio.wait([task])
    fleet.balancer.tick(fleet.clock())
    assert controllers(fleet) == {}
    fleet.routing.tick()
    assert repr(fleet.routing) == "Routing(0 models, 0 copies under way)"


# who chooses


async def test_sequence_is_neither_retried_nor_hedged_nor_reported_to_another_node() -> None:
    for reply in (failing(LinkLost("gone")), failing(Overloaded("full")), after(1.0, echo)):
        fleet = Fleet(*[[reply]] * 4)
        learn(fleet, "1")
        task = asyncio.create_task(infer(fleet, call().replace(sequence=SequenceMark("a"))))
        await asyncio.wait([task])
        assert sum(fleet.asked) == 1
        assert fleet.counts == {}
        task.exception()


async def test_requests_of_a_key_stay_at_its_node_however_slow_while_others_are_hedged() -> None:
    fleet = Fleet(*[[after(0.04, echo)]] * 3)
    learn(fleet, "1", 400)
    await infer(fleet)
    assert sum(fleet.asked) == 2  # the usual request has a hedge
    for link in fleet.links:
        link.asks.clear()
    for key in range(60):
        options = RoutingOptions(affinity=f"k{key}")
        assert len({await infer(fleet, options=options) for _ in range(10)}) == 1
    assert sum(fleet.asked) == 600


# copies


async def test_shadow_that_fails_hangs_or_is_not_there_costs_the_request_nothing() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    for reply in (hang, failing(RunFailed("crashed")), failing(Overloaded("full")), garbage()):
        fleet = Fleet(rules=MIRRORED)
        _, two = shadowed(fleet, after(0.01, echo), reply)
        fleet.node("C", echo, models=(offer(version="2"),))
        began_s = fleet.clock()
        assert await infer(fleet, call("m", "1"), allowed_s=1.0) == "A"
        assert fleet.clock() - began_s == pytest.approx(0.01)
        await asyncio.sleep(2.0)
        assert fleet.asked == [1, 1, 0]  # once, and nowhere else
        assert "attempts_failed_total{" not in fleet.telemetry.exposition().decode()
        assert fleet.counts == {}
        assert len(two.withdrawn) == (reply is hang)
    fleet = Fleet([echo], rules=MIRRORED)
    assert await infer(fleet, call("m", "1")) == "A"
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


async def test_copy_goes_nowhere_that_its_request_may_not() -> None:
    fleet = Fleet(rules=MIRRORED)
    _, two = shadowed(fleet)
    trusted = RoutingOptions(Constraints(peers=frozenset({PeerId("A"), PeerId("C")})))
    assert await infer(fleet, call("m", "1"), trusted) == "A"
    await asyncio.sleep(0.1)
    assert two.asks == []
    three = fleet.node("C", models=(offer(version="2"),))
    assert await infer(fleet, call("m", "1"), trusted) == "A"
    await asyncio.sleep(0.1)
    assert (len(two.asks), len(three.asks)) == (0, 1)


@pytest.mark.parametrize("supervisor", [0, 1, 5])
async def test_closing_ends_the_copies_also_those_that_have_not_begun(supervisor: int) -> None:
    fleet = Fleet(rules=MIRRORED)
    _, two = shadowed(fleet, hang, hang)
    task = asyncio.create_task(infer(fleet, call("m", "1")))
    await asyncio.sleep(0)  # the copy is ordered
    for _ in range(supervisor):
        await asyncio.sleep(0)
    assert repr(fleet.routing) == "Routing(1 models, 1 copies under way)"
    fleet.routing.close()
    assert repr(fleet.routing) == "Routing(1 models, 0 copies under way)"
    mirror = fleet.routing._models.of(M).mirror
    assert mirror is not None
    assert mirror.under_way == 0
    assert not two.waiting
    assert fleet.balancer.under_way == 1  # the request itself goes on
    fleet.links[0].asks[0].echo()
    assert await task == "A"
    assert fleet.counts == {}


# all together


@pytest.mark.full
def test_gates_replicas_and_copies_are_empty_in_the_end_whatever_happens() -> None:
    @in_virtual_time
    async def scenario(seed: int) -> int:
        rng = random.Random(seed)
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        rules = RoutingRules(ModelRules(weights=((V1, 1.0), (V2, 1.0)), mirror=MirrorRule(V2, 0.5)))
        fleet = Fleet(rules=rules, seed=seed, policy=rng.choice([InOrder.name, "p2c"]))
        errors = [Overloaded("full"), LinkLost("gone"), RunFailed("bad"), InvalidRequest("no")]

        def reply(ask: Ask) -> None:
            then = rng.choice([echo, echo, hang, garbage(), failing(rng.choice(errors)), end])
            after(rng.choice([0.0, 0.01, 0.3]), then)(ask)

        for peer in "ABCD"[: rng.randint(1, 4)]:
            models = rng.choice(["1", "2", "12"])
            fleet.node(peer, reply, models=[offer(version=version) for version in models])
        ended: list[str] = []

        async def one(number: int) -> None:
            await asyncio.sleep(rng.choice([0.0, 0.01, 0.2]))
            asked = call("m", rng.choice(["", "", "1", "2", "3"])).replace(
                inputs=(fp32("x", [number, 0]),)
            )
            if rng.random() < 0.2:
                asked = asked.replace(sequence=SequenceMark(rng.randint(1, 3)))
            tenant = rng.choice(["", "a", "b"])
            options = RoutingOptions(affinity=rng.choice(["", "k"]), tenant=tenant)
            try:
                await infer(fleet, asked, options, rng.choice([0.0, 0.05, 1.0]))
            except CapameshError as error:
                ended.append(error.code)
            else:
                ended.append("answered")

        tasks = [asyncio.create_task(one(number)) for number in range(10)]
        for _ in range(5):
            await asyncio.sleep(rng.choice([0.0, 0.01, 0.1]))
            link = rng.choice(fleet.links)
            match rng.randrange(4):
                case 0:
                    link.is_usable = not link.is_usable
                case 1:
                    link.refusal = rng.choice([None, LinkLost("ended"), Overloaded("full")])
                case _:
                    link.end()
            if rng.random() < 0.5 and fleet.endpoints:  # those of a node that left are gone
                fleet.relink(rng.randrange(len(fleet.endpoints)), reply)
            if rng.random() < 0.3:
                rng.choice(tasks).cancel()
            if rng.random() < 0.3:
                fleet.view.apply([Left(PeerId("A"), LeftReason.GOODBYE)])
            fleet.routing.tick()
            fleet.balancer.tick(fleet.clock())
        await asyncio.wait(tasks, timeout=3.0)
        assert all(task.done() for task in tasks), seed
        await asyncio.sleep(2.0)
        assert fleet.counts == {}, seed
        assert len(fleet.routing.pipeline.copies) == 0, seed
        assert complaints == [], seed
        for model in fleet.routing._models._models.values():
            assert model.mirror is not None
            assert model.mirror.under_way == 0, seed
        for link in fleet.links:  # nobody is asked the same twice over one link, but for a copy
            asks = Counter((ask.call.version, bytes(ask.call.inputs[0].data)) for ask in link.asks)
            assert max(asks.values(), default=0) <= 2, seed
            assert all(ask.ended for ask in link.asks), seed
        return len(ended)

    assert sum(scenario(seed) for seed in range(200)) > 1500


def end(ask: Ask) -> None:
    ask.link.end("the node has crashed")


# why


@pytest.mark.parametrize("policy", list(POLICIES))
async def test_explanation_names_whom_the_next_request_goes_to_and_changes_nothing(
    policy: str,
) -> None:
    rules = RoutingRules(ModelRules(weights=((V1, 3.0), (V2, 1.0))))
    fleet = Fleet(policy=policy, rules=rules, seed=3)
    for peer in "ABC":
        fleet.node(peer, models=(offer(version="1"), offer(version="2")))
    answered: set[tuple[str, str]] = set()
    for step in range(40):
        options = RoutingOptions(affinity=f"key {step}" if step % 4 == 0 else "")
        found, again = (fleet.routing.explain(M, ModelVersion(""), options) for _ in "ab")
        outcome = await fleet.infer(call(), options, fleet.clock() + 30.0)
        assert (again.version, again.chosen) == (found.version, found.chosen)
        assert (outcome.answer.version, (outcome.peer,)) == (found.version, found.chosen)
        answered.add((outcome.answer.version, str(outcome.peer)))
        await asyncio.sleep(0.02)
    assert len(answered) >= 5
    assert fleet.routing.explain(M, V1, RoutingOptions(policy="p2c")).policy == "p2c"
