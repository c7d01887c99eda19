from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
from fleet_fakes import advert, offer
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas import Draws, Usable

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    LocalError,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    NotMember,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RunFailed,
)
from capamesh.protocol.fleet import Joined, Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import TELL_S, LoadReport
from capamesh.router.balancing.absence import RESTART_S
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.deaths import Stand
from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.balancing.opinions import GRAY_S, MOST
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.balancing.picking import Picker
from capamesh.router.balancing.purpose import Purpose
from capamesh.router.balancing.served_model import UNHEARD, ServedModel
from capamesh.router.balancing.serving import FAILED, REFUSED, UNANSWERED_S
from capamesh.router.balancing.unhealthy import Ejected, Inhibited, Returned, Slowed
from capamesh.router.balancing.witnesses import Witness
from capamesh.router.fleet import latency_ewma as peak_ewma
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.replica import Replica
from capamesh.router.fleet.view import FleetView
from capamesh.router.policies.policy import IsEligible, MayBeProbed, PolicyBase
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.requests.attempt_events import Answered, Failed, Send, Withdraw
from capamesh.router.requests.attempts import RequestAttempts
from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.retry_budget import RETRIES
from capamesh.router.rules.constraints import ANYWHERE, Constraints
from capamesh.router.rules.model_rules import ModelRules, RoutingRules

M, ANY, V1 = ModelName("m"), ModelVersion(""), ModelVersion("1")
SHAPE = RequestShape(M, V1, 8)
LOAD = LoadReport(in_flight=3, limit=8, latency_us=10_000)


class FirstEligible(PolicyBase):
    """Picks the first that is eligible, and keeps what it was told."""

    name: ClassVar[str] = "first"

    def __init__(self) -> None:
        super().__init__(random.Random(0))
        self.news: list[tuple[str, float]] = []
        self.sends: list[tuple[str, float]] = []
        self.picks = 0
        self.probed = 0

    def pick(
        self,
        replicas: Sequence[Replica],
        is_eligible: IsEligible,
        request: RequestShape,
        now_s: float,
    ) -> Replica | None:
        assert request is SHAPE
        self.picks += 1
        return next((replica for replica in replicas if is_eligible(replica)), None)

    def reported(self, replica: Replica, now_s: float) -> None:
        self.news.append((replica.endpoint.peer, now_s))

    def sent(self, replica: Replica, now_s: float) -> None:
        self.sends.append((replica.endpoint.peer, now_s))

    def probes(
        self, replicas: Sequence[Replica], may_be_probed: MayBeProbed, now_s: float
    ) -> Sequence[Replica]:
        self.probed += 1
        return [replica for replica in replicas if may_be_probed(replica, now_s)]


class World:
    """Nodes named by letters that replica m version 1, with their links up."""

    def __init__(
        self,
        peers: str = "abc",
        rules: ModelRules | None = None,
        draw: float = 0.5,
        invites: str = "",
    ) -> None:
        """`invites` are the invites of the peers, a letter each; without them none is known."""
        by_peer = dict(zip(peers, invites.replace(".", " "), strict=False))
        self.endpoints: list[Endpoint] = []
        self.fleet = FleetView(on_new=self._new, on_gone=lambda _: None)
        self.policies: dict[str, FirstEligible] = {}
        self.balancer = Balancer(
            self.fleet,
            make_policy=self._policy,
            rng=Draws(*[draw] * 1000),
            rules=RoutingRules(rules or ModelRules()),
            invite_of=lambda peer: by_peer.get(peer, "").strip(),
        )
        for peer in peers:
            self.join(peer)

    def _new(self, endpoint: Endpoint) -> None:
        endpoint.link = Usable()  # type: ignore[assignment]
        self.endpoints.append(endpoint)

    def _policy(self, name: str, _: random.Random) -> FirstEligible:
        self.policies[name] = FirstEligible()
        return self.policies[name]

    def join(self, peer: str, version: str = "1", counter: int = 1) -> None:
        reported = advert(peer, f"{peer}:1", models=[offer(version=version)], counter=counter)
        self.fleet.apply([Joined(reported)])

    def leave(self, *peers: str) -> None:
        self.fleet.apply([Left(PeerId(peer), LeftReason.GOODBYE) for peer in peers])

    @property
    def served(self) -> ServedModel:
        return self.balancer.served(M, V1)

    @property
    def policy(self) -> FirstEligible:
        policy = self.served.policy
        assert isinstance(policy, FirstEligible)
        return policy

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return self.fleet.replicas(M, V1)

    def picker(self, constraints: Constraints = ANYWHERE) -> RequestPicker:
        return RequestPicker(self.served, constraints, SHAPE)

    def choice(self, now_s: float, *asked: Replica, picker: RequestPicker | None = None) -> str:
        return (picker or self.picker()).choose(asked, now_s).endpoint.peer

    def sent(self, replica: Replica, now_s: float = 10.0) -> RequestPicker:
        picker = self.picker()
        picker.sent(replica, now_s)
        return picker

    def answers(self, replica: Replica, times: int, elapsed_s: float, now_s: float) -> None:
        for _ in range(times):
            self.sent(replica, now_s).answered(replica, LOAD, elapsed_s, 0.0, 8, now_s)


def earn_hedges(world: World, hedges: int) -> None:
    for _ in range(20 * hedges):
        world.served.hedging.sent(10.0)


# the facade


def test_model_has_one_traffic_and_an_empty_version_is_the_newest() -> None:
    world = World("ab", ModelRules(policy="cheapest"))
    first = world.balancer.served(M, ANY)
    assert first is world.balancer.served(M, V1)
    assert list(world.policies) == ["cheapest"]
    assert repr(first) == "ServedModel('m' 1 by first, 2 hosts)"
    world.join("c", version="10")
    second = world.balancer.served(M, ANY)
    assert (second.version, second.replicas[0].endpoint.peer) == ("10", "c")
    assert world.balancer.served_models() == [first, second]
    assert repr(world.balancer) == "Balancer(2 models in use, UnhealthySet(0))"


@pytest.mark.parametrize("failing", [50, 45, 25])
def test_fault_in_bursts_has_a_fifth_sent_again_however_many_are_sent_before_the_first_fails(
    failing: int,
) -> None:
    world = World("ab")
    one, other = world.replicas
    retried = 0
    for burst in range(40):
        now_s = 10.0 + 60.0 * burst
        pickers = [world.sent(one, now_s) for _ in range(50)]
        for picker in pickers[:failing]:
            picker.failed(one, RunFailed("x"), 0.1, now_s + 0.1)
            if picker.try_retry(now_s + 0.1):
                retried += 1
                picker.sent(other, now_s + 0.2)
                picker.answered(other, LOAD, 0.1, 0.0, 8, now_s + 0.3)
        for picker in pickers[failing:]:
            picker.answered(one, LOAD, 0.5, 0.0, 8, now_s + 0.5)
    assert retried <= 0.2 * 50 * 40 + 50


def test_answer_to_what_was_sent_before_a_failure_does_not_undo_it() -> None:
    world = World("ab")
    one = world.replicas[0]
    late, again = world.sent(one, 10.0), world.sent(one, 10.0)
    again.failed(one, RunFailed("x"), 0.5, 10.5)
    late.answered(one, LOAD, 1.0, 0.0, 8, 11.0)
    assert peak_ewma.cost_s(one, 11.0) == peak_ewma.PENALTY_S
    world.answers(one, 1, 0.1, 11.2)
    assert peak_ewma.cost_s(one, 11.2) == pytest.approx(0.1)


def test_load_that_a_node_tells_more_often_than_it_may_is_not_taken_over() -> None:
    world = World("ab")
    endpoint = world.endpoints[0]
    times = [10.0 + n * TELL_S / 5 for n in range(6)]
    seen: list[float] = []
    for now_s in times:
        world.balancer.load_told(endpoint, M, V1, LOAD, now_s)
        seen.append(world.replicas[0].load_s)
    assert seen == [times[0]] * 3 + [times[3]] * 3
    world.balancer.load_told(endpoint, ModelName("x"), V1, LOAD, 11.0)
    assert world.replicas[1].load_s == -math.inf


def test_names_that_nobody_replicas_leave_nothing_behind() -> None:
    world = World("a")
    with pytest.raises(ModelNotFound, match="no node hosts model 'x'; hosted models: m"):
        world.balancer.served(ModelName("x"), ANY)
    with pytest.raises(ModelNotFound, match="model 'm' has no version '7'; its versions: 1"):
        world.balancer.served(M, ModelVersion("7"))
    with pytest.raises(NoEndpoint, match="has not heard of any node yet"):
        World("").balancer.served(M, ANY)
    assert world.balancer.served_models() == []


def test_traffic_of_a_model_that_is_gone_is_forgotten_and_its_desks_still_work() -> None:
    world = World("a")
    (replica,) = world.replicas
    picker = world.sent(replica)
    world.leave("a")
    world.balancer.tick(11.0)
    assert world.balancer.served_models() == []
    picker.answered(replica, LOAD, 1.0, 0.0, 8, 11.0)
    assert (replica.rif, replica.endpoint.rif) == (0, 0)
    with pytest.raises(ModelUnavailable, match="was here of late"):
        picker.choose((), 11.0)


def test_replica_that_leaves_three_in_a_row_to_others_without_a_word_is_taken_for_silent() -> None:
    world = World("ab")
    replica = world.replicas[0]
    for number in range(3):
        assert replica.endpoint.health.may_send(20.0 + number)
        world.sent(replica).withdrawn(replica, 1.0, 20.0 + number)
    assert not replica.endpoint.health.may_send(22.0)
    assert replica.endpoint.health.reason == "silent for 1000 ms"


def test_replica_that_tells_its_load_meanwhile_is_merely_slow() -> None:
    world = World("ab")
    replica = world.replicas[0]
    for number in range(6):
        picker = world.sent(replica)
        world.balancer.probe_answered(replica, LOAD, 0.001, 19.5 + number)
        picker.withdrawn(replica, 1.0, 20.0 + number)
    assert replica.endpoint.health.is_full
    assert replica.health.is_full


def test_requests_that_their_callers_gave_up_soon_say_nothing_of_a_replica() -> None:
    world = World("ab")
    replica = world.replicas[0]
    for _ in range(30):
        world.sent(replica).answered(replica, LOAD, 0.5, 0.0, 8, 10.0)
    for _ in range(9):
        world.sent(replica).withdrawn(replica, 0.01, 20.0)
    assert replica.endpoint.health.is_full


def test_policy_knows_what_was_reported_before_its_first_request() -> None:
    world = World("ab")
    world.balancer.probe_answered(world.replicas[1], LOAD, 0.001, 9.0)
    assert (world.replicas[1].load, world.replicas[1].load_s) == (LOAD, 9.0)
    assert world.policy.news == [("b", 9.0)]


# choosing


def test_policy_sees_the_eligible_and_none_that_was_asked() -> None:
    world = World("abc")
    first, second, _ = world.replicas
    assert world.choice(10.0) == "a"
    assert world.choice(10.0, first) == "b"
    second.endpoint.is_draining = True
    assert world.choice(10.0, first) == "c"


def test_error_without_a_link_says_what_is_wrong_with_whom() -> None:
    world = World("abc")
    for endpoint in world.endpoints[:2]:
        endpoint.link = None
    world.endpoints[2].is_draining = True
    with pytest.raises(NoEndpoint) as caught:
        world.choice(10.0)
    assert caught.value.message == (
        "model 'm' is hosted, but no node that has it can be reached now"
        " (2 of 3: no link; 1 of 3: draining); try again soon"
    )
    world = World("")
    world.fleet.apply([Joined(advert("v"))])
    with pytest.raises(NoEndpoint, match="none has a link to this router"):
        world.choice(10.0)


def test_request_s_constraints_and_the_operator_s_hold_together() -> None:
    world = World("ab", ModelRules(constraints=Constraints(regions=frozenset({"eu", "us"}))))
    world.replicas[0].advert = dataclasses.replace(world.replicas[0].advert, region="ap")
    assert world.choice(10.0) == "b"
    with pytest.raises(NoEndpoint, match="region ap is not us; 1 of 2: region eu is not us"):
        world.choice(10.0, picker=world.picker(Constraints(regions=frozenset({"us"}))))


def test_soonest_replica_tries_when_none_can_meet_the_deadline() -> None:
    world = World("ab")
    for replica, latency_us in zip(world.replicas, (90_000, 80_000), strict=True):
        replica.reported(LoadReport(latency_us=latency_us), 9.0)
    picker = RequestPicker(world.served, ANYWHERE, SHAPE, deadline_s=10.085)
    assert world.choice(10.0, picker=picker) == "b"
    assert world.choice(10.02, picker=picker) == "b"
    assert world.choice(10.02, world.replicas[1], picker=picker) == "a"


def test_retry_tries_the_inhibited_rather_than_none_and_an_extra_attempt_does_not() -> None:
    world = World("ab")
    first, second = world.replicas
    second.endpoint.health.failed(9.9, is_hard=True)
    picker = world.picker()
    assert picker.choose([first], 10.0, Purpose.RETRY) is second
    for extra in (Purpose.HEDGE, Purpose.CROSS_CHECK):
        with pytest.raises(NoEndpoint, match="inhibited: no answer"):
            picker.choose([first], 10.0, extra)
    assert picker.choose([first], 10.0, Purpose.RETRY) is second
    second.endpoint.health.probed(10.0)
    assert picker.choose([first], 10.0, Purpose.HEDGE) is second


def test_ejections_are_ignored_when_more_than_half_are_ejected() -> None:
    world = World("abc")
    for count, replica in enumerate(world.replicas[:2], 1):
        replica.health.eject(10.0)
        world.served._unhealthy.note(replica, 10.0)
        assert world.choice(10.0 + count) == ("b" if count == 1 else "a")
    assert world.choice(12.05) == "a"


def test_ejections_are_counted_again_only_after_a_while() -> None:
    world = World("ab")
    first, _ = world.replicas
    first.endpoint.health.eject(10.0)
    world.served._unhealthy.note(first, 10.0)
    assert world.choice(10.0) == "b"
    world.endpoints[1].link = None  # one of one is ejected now: a panic, noticed in 0.1 s
    assert not world.served.panic.is_on(world.replicas, 10.09)
    assert world.served.panic.is_on(world.replicas, 10.11)
    assert world.choice(10.11) == "a"


def test_request_may_ask_for_another_policy_and_all_policies_learn_from_all_requests() -> None:
    world = World("ab")
    replica = world.replicas[0]
    usual = RequestPicker(world.served, ANYWHERE, SHAPE, policy="prequal")
    other = RequestPicker(world.served, ANYWHERE, SHAPE, policy="affinity")
    again = RequestPicker(world.served, ANYWHERE, SHAPE, policy="affinity")
    assert list(world.policies) == ["prequal", "affinity"]
    for picker in (usual, other, again):
        picker.sent(picker.choose((), 10.0), 10.0)
    again.answered(replica, LOAD, 0.1, 0.1, 8, 10.1)
    for policy in world.policies.values():
        assert policy.news == [("a", 10.1)]
    assert world.policies["prequal"].picks == 1
    assert world.policies["affinity"].picks == 2
    assert world.policies["prequal"].sends == [("a", 10.0)] * 3
    assert world.policies["affinity"].sends == [("a", 10.0)] * 3
    assert again.probes(10.1) == list(world.replicas)
    assert (world.policies["prequal"].probed, world.policies["affinity"].probed) == (0, 1)


# what outcomes mean


def test_each_way_to_end_ends_the_count_that_sent_began() -> None:
    world = World("a")
    (replica,) = world.replicas
    picker = world.picker()
    for _ in range(3):
        picker.sent(replica, 10.0)
    assert (replica.rif, replica.endpoint.rif) == (3, 3)
    idle: list[str] = []
    replica.endpoint.retire(lambda: idle.append("idle"))
    picker.answered(replica, LOAD, 0.1, 0.0, 8, 10.1)
    picker.silent(replica, 0.1, 10.1)
    picker.failed(replica, RunFailed("x"), 0.1, 10.1)
    assert (replica.rif, replica.endpoint.rif, idle) == (1, 1, [])
    picker.withdrawn(replica, 0.1, 10.1)
    assert (replica.rif, replica.endpoint.rif, idle) == (0, 0, ["idle"])
    assert picker.chosen == (replica,) * 3


def test_answer_is_reported_to_all_whom_it_concerns() -> None:
    world = World("a")
    (replica,) = world.replicas
    replica.endpoint.network.trip_s = 0.01
    world.sent(replica).answered(replica, LOAD, 0.06, 0.05, 1_000_000, 10.06)
    assert replica.endpoint.answered == 1
    assert (replica.load.in_flight, replica.load_s) == (3, 10.06)
    assert (world.policy.sends, world.policy.news) == ([("a", 10.0)], [("a", 10.06)])
    assert peak_ewma.cost_s(replica, 10.06) == 0.06
    assert world.served.window.quantile(0.5, 10.06) == pytest.approx(0.06, rel=0.05)
    assert replica.endpoint.network.bytes_per_s == 0  # no time is left that was the network's
    world.sent(replica).answered(replica, LOAD, 0.26, 0.05, 1_000_000, 10.26)
    assert replica.endpoint.network.bytes_per_s == pytest.approx(5e6)


CLOSED, INHIBITED = CircuitState.CLOSED, CircuitState.INHIBITED


@pytest.mark.parametrize(
    ("error", "of_replica", "of_endpoint", "until_s", "failed"),
    [
        (Overloaded("full", 0.4), INHIBITED, CLOSED, 10.4, 0),
        (Overloaded("full"), INHIBITED, CLOSED, 10.05, 0),
        (Draining("bye"), CLOSED, INHIBITED, 11.0, 0),
        (ModelUnavailable("loading"), INHIBITED, CLOSED, 10.5, 0),
        (RunFailed("no memory"), INHIBITED, CLOSED, 10.1, 1),
        (PeerError("odd"), INHIBITED, CLOSED, 10.1, 1),
        (LinkLost("reset"), CLOSED, INHIBITED, 15.0, 1),
        (ProtocolViolation("junk"), CLOSED, INHIBITED, 15.0, 1),
        (NotMember("who?"), CLOSED, INHIBITED, 15.0, 1),
        (InvalidRequest("shape"), CLOSED, CLOSED, 10.0, 0),
        (DeadlineExceeded("late"), CLOSED, CLOSED, 10.0, 0),
        (LocalError("ours"), CLOSED, CLOSED, 10.0, 0),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_error_is_blamed_on_whom_it_concerns_for_as_long_as_it_matters(
    error: CapameshError,
    of_replica: CircuitState,
    of_endpoint: CircuitState,
    until_s: float,
    failed: int,
) -> None:
    world = World("a")
    (replica,) = world.replicas
    world.sent(replica).failed(replica, error, 0.001, 10.0)
    assert (replica.health.state(10.0), replica.endpoint.health.state(10.0)) == (
        of_replica,
        of_endpoint,
    )
    assert replica.endpoint.failed == failed
    assert bool(world.served._unhealthy.noted) == bool(failed)
    assert (replica.rif, replica.endpoint.rif) == (0, 0)
    assert (peak_ewma.cost_s(replica, 10.0) == 5.0) == bool(failed)
    if of_replica is not of_endpoint:
        one = replica.health if of_replica is INHIBITED else replica.endpoint.health
        assert not one.may_send(until_s - 0.001)
        assert one.may_send(until_s + 0.001)


def test_replica_that_refused_what_another_answered_is_blamed_as_for_a_failed_run() -> None:
    world = World("ab")
    replica, other = world.replicas
    error = InvalidRequest("odd shape")
    for times in range(1, 6):
        picker = world.sent(replica)
        picker.failed(replica, error, 0.001, 10.0)
        picker.refuted(replica, other, error, 0.001, 10.0 + times)
        assert replica.endpoint.failed == times
    assert replica.health.state(15.0) is CircuitState.EJECTED
    assert replica.endpoint.health.is_full
    assert peak_ewma.cost_s(replica, 15.0) == 5.0
    assert replica.health.reason == "5 failures in a row"
    assert (replica.rif, replica.endpoint.rif) == (0, 0)
    assert world.served.is_doubted(replica, 15.0 + GRAY_S - 0.5)
    assert not world.served.is_doubted(other, 15.0)


@pytest.mark.parametrize(
    ("invites", "by", "has_answered", "is_blamed"),
    [
        ("xx.", "b", True, True),  # a node of its own invite says otherwise
        ("..y", "c", True, True),  # its invite is not known
        ("x.y", "c", True, False),  # either may lie, and this one answers others
        ("x.y", "c", False, True),  # it answers nobody
        ("xyz", "bc", True, True),  # two invites say otherwise
        ("xyy", "bc", True, False),  # one invite says so twice
    ],
)
def test_replica_loses_requests_by_the_word_of_its_own_invite_or_of_two_others(
    invites: str, by: str, has_answered: bool, is_blamed: bool
) -> None:
    world = World("abc", invites=invites)
    replicas = dict(zip("abc", world.replicas, strict=True))
    if has_answered:
        replicas["a"].answered_s = 9.0
    for other in by:
        picker = world.sent(replicas["a"])
        error = InvalidRequest("odd shape")
        picker.failed(replicas["a"], error, 0.001, 10.0)
        picker.refuted(replicas["a"], replicas[other], error, 0.001, 10.0)
    assert (replicas["a"].health.is_full, replicas["a"].endpoint.failed > 0) == (
        not is_blamed,
        is_blamed,
    )
    assert world.served.is_doubted(replicas["a"], 11.0)  # what it says is looked into in any case


def ended(replica: Replica, end: CapameshError | str, *, is_silent: bool = False) -> Attempt:
    """Return an attempt at `replica` that has ended so."""
    attempt = Attempt(0, replica, 10.0, 11.0)
    attempt.end, attempt.is_silent = end, is_silent
    return attempt


@pytest.mark.parametrize(
    ("invites", "refused", "wanted"),
    [
        ("xxy", "a", "c"),  # of another invite
        ("xxy", "ac", None),  # two invites have said so
        ("xyz", "a", "b"),
        ("xyz", "ab", None),
        ("xxx", "a", "b"),  # there is one invite, and one other node is asked
        ("xxx", "ab", None),
        ("xxx", "ba", None),  # the second refused before the first, which a hedge had joined
    ],
)
def test_word_on_the_caller_s_fault_is_settled_by_two_invites_or_two_nodes_of_the_only_one(
    invites: str, refused: str, wanted: str | None
) -> None:
    world = World("abc", invites=invites)
    asked = [replica for replica in world.replicas if replica.endpoint.peer in refused]
    picker = world.picker()
    picker.attempts += [ended(replica, InvalidRequest("bad")) for replica in asked]
    (first,) = [replica for replica in asked if replica.endpoint.peer == refused[0]]
    replica = picker.cross_check(first, asked, 10.0)
    assert (None if replica is None else replica.endpoint.peer) == wanted
    assert (
        repr(world.served._opinions)
        == f"Opinions({49 if wanted and 'y' not in invites else 50}.0 left)"
    )
    assert picker.lacks_word(10.0) == ("y" in invites and wanted is not None)


def test_other_invite_is_asked_though_it_is_not_well_and_only_while_it_is_linked() -> None:
    world = World("abc", invites="xxy")
    liar, _, honest = world.replicas
    honest.health.eject(10.0)
    picker = world.picker()
    picker.attempts.append(ended(liar, InvalidRequest("bad")))
    assert picker.cross_check(liar, [liar], 10.0) is honest
    # it was full: no node of the liar's invite can settle that
    assert picker.cross_check(liar, [liar, honest], 10.0) is None
    assert picker.lacks_word(10.0)
    honest.endpoint.link = None
    assert picker.cross_check(liar, [liar], 10.0) is world.replicas[1]
    assert not picker.lacks_word(10.0)


@pytest.mark.parametrize("why", ["region", "held open", "loads", "late"])
def test_word_of_an_invite_that_may_not_be_asked_is_not_waited_for(why: str) -> None:
    world = World("abc", invites="xxy")
    liar, second, other = world.replicas
    here = Constraints(regions=frozenset({"eu"}))
    picker = world.picker(here)
    picker.attempts.append(ended(liar, InvalidRequest("bad")))
    match why:
        case "region":
            other.advert = replace(other.advert, region="us")
        case "held open":
            other.health.hold(CircuitState.FORCED_OPEN)
        case "loads":
            other.is_away = True
        case _:  # that a request is too late says nothing of whether it is wrong
            picker.attempts.append(ended(other, DeadlineExceeded("late")))
    assert picker.lacks_word(10.0) == (why == "late")
    asked = [attempt.replica for attempt in picker.attempts]
    assert picker.cross_check(liar, asked, 10.0) is (None if why == "late" else second)


@pytest.mark.parametrize(
    ("invites", "once", "wanted"),
    [
        ("xyz", "", True),
        ("xyz", "a", True),  # more invites say otherwise
        ("xyz", "ab", False),
        ("xyy", "a", False),  # as many
        ("xyy", "b", True),  # it is not what its invite says
        ("xxx", "a", True),
        ("xxx", "ab", False),
    ],
)
def test_request_may_run_twice_if_most_invites_say_so(
    invites: str, once: str, wanted: bool
) -> None:
    world = World("abc", invites=invites)
    for replica in world.replicas:
        is_idempotent = replica.endpoint.peer not in once
        replica.offer = replace(replica.offer, is_idempotent=is_idempotent)
    assert world.served.may_repeat() is wanted


def test_invite_that_alone_forbids_to_run_twice_is_asked_once_and_does_not_forbid_others() -> None:
    world = World("abc", invites="xxy")
    for replica in world.replicas[:2]:
        replica.offer = replace(replica.offer, is_idempotent=False)
    first, _, other = world.replicas
    assert not world.picker().may_repeat_after(other)
    picker = world.picker()
    assert world.choice(10.0, first, picker=picker) == "b"
    assert picker.may_repeat_after(first)
    assert world.choice(10.0, first, picker=picker) == "c"
    other.endpoint.link = None
    with pytest.raises(NoEndpoint):
        world.choice(10.0, first, picker=picker)


@pytest.mark.parametrize(
    ("end", "is_silent", "others", "wanted"),
    [
        (RunFailed("no"), False, "", "c"),
        (ProtocolViolation("odd"), False, "", "c"),
        (LinkLost("reset"), False, "", "b"),
        (Overloaded("full"), False, "", "b"),
        ("under way", True, "", "b"),  # nodes freeze
        ("under way", True, "b", "c"),  # but not two of one invite
    ],
)
def test_request_that_fails_at_one_invite_goes_on_to_another(
    end: CapameshError | str, is_silent: bool, others: str, wanted: str
) -> None:
    world = World("abc", invites="xxy")
    asked = [replica for replica in world.replicas if replica.endpoint.peer in "a" + others]
    picker = world.picker()
    picker.attempts += [ended(replica, end, is_silent=is_silent) for replica in asked]
    assert picker.choose(asked, 10.0, Purpose.RETRY).endpoint.peer == wanted
    world.replicas[2].health.eject(10.0)  # after two failures it is asked all the same
    left = {"a": "b", "ab": "c"}["a" + others]
    assert picker.choose(asked, 10.0, Purpose.RETRY).endpoint.peer == left


def test_node_that_is_late_to_call_a_request_wrong_is_slow() -> None:
    world = World("a")
    (replica,) = world.replicas
    world.answers(replica, 1, 0.01, 10.0)
    error = InvalidRequest("bad")
    world.sent(replica).failed(replica, error, 0.005, 10.0)
    assert peak_ewma.cost_s(replica, 10.0) == 0.01
    for _ in range(9):  # which is no silence
        world.sent(replica).failed(replica, error, 2.0, 10.0)
    assert peak_ewma.cost_s(replica, 10.0) == 2.0
    assert (replica.health.is_full, replica.endpoint.health.is_full) == (True, True)


def test_opinion_is_given_back_only_if_it_was_taken() -> None:
    world = World("ab")
    replica, other = world.replicas
    error, opinions = InvalidRequest("odd shape"), world.served._opinions
    for at in range(3):
        assert opinions.try_take(10.0), at
    for _ in range(
        5
    ):  # a hedge has answered what the first refused: nobody was asked for an opinion
        picker = world.sent(replica)
        picker.failed(replica, error, 0.001, 10.0)
        picker.refuted(replica, other, error, 0.001, 10.0)
    assert repr(opinions) == "Opinions(47.0 left)"
    replica.health.probed(10.0)
    for refuted_s, left in ((10.0, "47.0"), (-1e6, "46.0")):  # doubted, then believed
        replica.refuted_s = refuted_s
        picker = world.sent(replica)
        picker.failed(replica, error, 0.001, 10.0)
        assert picker.cross_check(replica, {replica}, 10.0) is other
        assert repr(opinions) == f"Opinions({left} left)"
        picker.refuted(replica, other, error, 0.001, 10.0)
        assert repr(opinions) == "Opinions(47.0 left)"


def test_request_that_is_wrong_for_one_version_may_be_right_for_another() -> None:
    world = World("a")
    world.join("b", version="2")
    (replica,), (other,) = world.replicas, world.fleet.replicas(M, ModelVersion("2"))
    picker = world.sent(replica)
    picker.failed(replica, InvalidRequest("odd shape"), 0.001, 10.0)
    picker.refuted(replica, other, InvalidRequest("odd shape"), 0.001, 10.0)
    assert replica.health.is_full


def test_deadline_is_far_away_by_what_the_node_itself_takes() -> None:
    world = World("a")
    (replica,) = world.replicas
    assert not world.picker().has_time_left(replica, 0.05)
    assert world.picker().has_time_left(replica, 0.06)
    replica.endpoint.network.rtt_s = 0.1
    assert not world.picker().has_time_left(replica, 0.15)
    replica.reported(LoadReport(latency_us=1_000_000), 10.0)
    assert not world.picker().has_time_left(replica, 4.0)
    assert world.picker().has_time_left(replica, 4.2)


def test_second_opinions_have_a_budget_of_their_own_that_time_refills() -> None:
    world = World("ab")
    first, second = world.replicas
    assert (
        world.picker().cross_check(first, [first, second], 10.0) is None
    )  # for which nothing is taken
    opinions = sum(world.picker().cross_check(first, [first], 10.0) is second for _ in range(400))
    retries = sum(world.picker().try_retry(10.0) for _ in range(1000))
    assert (opinions, retries) == (MOST, RETRIES.reserve)
    opinions = sum(world.picker().cross_check(first, [first], 15.0) is second for _ in range(99))
    assert opinions == 5
    assert (
        World("ab", ModelRules(is_retried=False)).picker().cross_check(first, [first], 10.0) is None
    )
    world = World("ab")
    world.replicas[1].health.failed(10.0, is_hard=True)
    assert (
        world.picker().cross_check(world.replicas[0], world.replicas[:1], 10.0) is None
    )  # it is not well


@pytest.mark.parametrize("is_silent", [False, True])
def test_silence_that_was_a_fault_is_no_latency(is_silent: bool) -> None:
    world = World("a")
    (replica,) = world.replicas
    picker = world.sent(replica, 10.0)
    picker.attempts.append(ended(replica, "withdrawn", is_silent=is_silent))
    picker.withdrawn(replica, 5.0, 15.0)
    assert world.served.window.count == (not is_silent)


def test_silence_is_the_node_s_unless_it_has_spoken_of_the_model_since() -> None:
    world = World("ab")
    mute, hanging = world.replicas
    for replica, reported_s in ((mute, 9.9), (hanging, 10.2)):
        picker = world.sent(replica, 10.0)
        replica.reported(LOAD, reported_s)
        picker.silent(replica, 0.5, 10.5)
    assert mute.endpoint.health.reason == "silent for 500 ms"
    assert [health.may_send(10.5) for health in (mute.health, mute.endpoint.health)] == [
        True,
        False,
    ]
    assert [h.may_send(10.5) for h in (hanging.health, hanging.endpoint.health)] == [False, True]
    assert world.balancer.reprobes(10.55) == [mute, hanging]
    assert [verdict.model for verdict in world.balancer.tick(10.6)] == ["", "m"]


def test_silent_one_that_answers_after_all_is_back_at_once() -> None:
    world = World("a")
    (replica,) = world.replicas
    picker = world.sent(replica)
    picker.silent(replica, 0.5, 10.5)
    picker.answered(replica, LOAD, 0.6, 0.6, 8, 10.6)
    assert replica.endpoint.health.may_send(10.6)


def test_lone_replica_that_works_through_a_burst_is_slow_and_not_silent() -> None:
    world = World("a", ModelRules(is_hedged=False))
    (replica,) = world.replicas
    world.answers(replica, 100, 0.14, 9.0)
    flights = [
        RequestAttempts(
            world.picker(), deadline_s=70.0, size_bytes=8, is_safe=True, is_hedged=False
        )
        for _ in range(64)
    ]
    for attempts in flights:
        attempts.start(10.0)
    for number, attempts in enumerate(flights, 1):  # one each 17 ms: the last waits for longer than
        now_s = (
            10.0 + 0.017 * number
        )  # three times the old 99th percentile and 4 times what was told
        for waiting in flights[number - 1 :]:
            waiting.tick(now_s)
        load = LoadReport(in_flight=64, limit=64, latency_us=int(17_000 * number))
        assert attempts.answered(0, load, 0.017 * number, 8, now_s) == (Answered(0),)
        assert replica.endpoint.health.is_full
        assert replica.health.is_full
    assert (replica.rif, replica.endpoint.rif) == (0, 0)


def test_replica_is_busy_since_its_requests_in_flight_were_none() -> None:
    world = World("a")
    (replica,) = world.replicas
    first, second = world.sent(replica, 10.0), world.sent(replica, 11.0)
    first.answered(replica, LOAD, 1.5, 1.5, 8, 11.5)
    assert replica.busy_s == 10.0
    second.withdrawn(replica, 1.0, 12.0)
    world.sent(replica, 13.0)
    assert replica.busy_s == 13.0


def test_withdrawn_request_counts_only_where_it_took_longer_than_usual() -> None:
    world = World("a")
    (replica,) = world.replicas
    world.answers(replica, 3, 0.1, 10.0)
    world.sent(replica).withdrawn(replica, 0.05, 10.5)
    assert peak_ewma.cost_s(replica, 10.5) == pytest.approx(0.1 * math.exp(-0.05))
    assert world.served.window.count == 3
    world.sent(replica).withdrawn(replica, 0.4, 10.0)
    assert peak_ewma.cost_s(replica, 10.0) == 0.4
    assert world.served.window.count == 4


def test_lost_link_s_many_requests_are_one_failure_to_the_watch_for_outliers() -> None:
    world = World("abc")
    for replica in world.replicas:
        world.answers(replica, 30, 0.01, 10.0)
    first = world.replicas[0]
    desks = [world.sent(first) for _ in range(300)]
    for picker in desks:
        picker.failed(first, LinkLost("reset"), 0.01, 10.5)
    assert world.balancer.tick(13.0) == [
        Inhibited(PeerId("a"), "a:1", "", "", "link_lost: reset"),
    ]


def test_replica_that_fails_most_of_what_others_answer_is_ejected_and_reported() -> None:
    world = World("abc")
    first = world.replicas[0]
    for replica in world.replicas[1:]:
        world.answers(replica, 40, 0.01, 10.0)
    for _ in range(40):
        world.sent(first).failed(first, RunFailed("no memory"), 0.001, 10.0)
    assert world.balancer.tick(10.0) == [
        Inhibited(PeerId("a"), "a:1", "m", "1", "run_failed: no memory")
    ]
    reported = world.balancer.tick(12.5)
    assert reported == [Ejected(PeerId("a"), "a:1", "m", "1", reported[0].reason)]
    assert reported[0].reason == "100% of 40 requests failed, 0% elsewhere"


def test_replica_that_is_slow_beside_the_others_is_reported_and_keeps_its_requests() -> None:
    world = World("abc")
    for replica, elapsed_s in zip(world.replicas, (0.5, 0.01, 0.01), strict=True):
        world.answers(replica, 120, elapsed_s, 10.0)
    reported = world.balancer.tick(12.5)
    assert [type(verdict) for verdict in reported] == [Slowed]
    assert reported[0].peer == "a"
    assert world.choice(12.5) == "a"


def test_answer_of_who_is_gone_does_not_bring_it_back() -> None:
    world = World("ab")
    gone = world.replicas[0]
    picker = world.sent(gone)
    world.leave("a")
    picker.answered(gone, LOAD, 0.1, 0.0, 8, 10.1)
    world.balancer.probe_answered(gone, LOAD, 0.001, 10.2)
    assert gone.is_gone
    assert gone.load == LoadReport()
    assert world.policy.news == []
    assert [replica.endpoint.peer for replica in world.replicas] == ["b"]
    assert gone.rif == gone.endpoint.rif == 0


def test_replica_that_always_says_that_it_is_idle_and_fast_is_not_believed() -> None:
    world = World("a")
    (liar,) = world.replicas
    lie = LoadReport(limit=1000, latency_us=1)
    desks = [world.sent(liar) for _ in range(5)]
    desks[0].answered(liar, lie, 0.2, 0.0, 8, 10.2)
    assert (liar.load.in_flight, liar.load.latency_us) == (4, 200_000)
    world.balancer.probe_answered(liar, lie, 0.001, 10.2)
    assert liar.service_s == 0.2


def test_refusal_for_lack_of_room_is_reported_to_admission() -> None:
    world = World("a")
    (replica,) = world.replicas
    admission = world.served.admission
    admission.saturation.look(world.replicas, 10.0)
    world.sent(replica).failed(replica, Draining("bye"), 0.001, 10.0)
    memory = admission.saturation._memory[replica]
    assert memory.full_until_s == -math.inf
    world.sent(replica).failed(replica, Overloaded("full", 0.4), 0.001, 10.0)
    assert (memory.full_until_s, memory.urgent_full_until_s) == (10.4, -math.inf)
    urgent = SHAPE.replace(is_urgent=True)
    picker = RequestPicker(world.served, ANYWHERE, urgent)
    picker.sent(replica, 10.0)
    picker.failed(replica, Overloaded("full", 0.6), 0.001, 10.0)
    assert (memory.full_until_s, memory.urgent_full_until_s) == (10.6, 10.6)


@pytest.mark.parametrize(("has_left", "stand"), [(False, Stand.GUILTY), (True, Stand.FREE)])
def test_process_may_have_died_of_a_request_whose_client_has_left(
    has_left: bool, stand: Stand
) -> None:
    world = World("ab")
    accused = world.picker()
    for replica in world.replicas:
        if has_left:
            world.sent(replica).left(replica, 10.0)
        accused.died(replica, 11.0)
    assert accused.stand(is_final=True) is stand


# budgets


def test_request_earns_once_however_often_it_is_sent() -> None:
    world = World("ab")
    first, second = world.replicas
    served = world.served
    before = served.budget.balance(10.0)
    picker = world.sent(first)
    picker.sent(second, 10.0)
    assert served.budget.balance(10.0) == pytest.approx(before + 0.2)
    assert picker.try_retry(10.0)
    assert served.budget.balance(10.0) == pytest.approx(before - 0.8)
    assert not picker.try_hedge(10.0)
    for _ in range(20):
        world.sent(first).withdrawn(first, 0.001, 10.0)
    assert picker.try_hedge(10.0)
    assert not picker.try_hedge(10.0)


def test_operator_may_forbid_retries_and_hedges() -> None:
    world = World("a", ModelRules(is_retried=False, is_hedged=False))
    (replica,) = world.replicas
    world.answers(replica, 50, 0.1, 10.0)
    picker = world.picker()
    assert not world.served.rules.is_retried
    assert not picker.try_retry(10.0)
    assert not picker.try_hedge(10.0)
    assert picker.hedge_delay_s(10.0) is None
    allowed = World("a")
    allowed.answers(allowed.replicas[0], 50, 0.1, 10.0)
    assert allowed.picker().hedge_delay_s(10.0) == pytest.approx(0.1, rel=0.05)


def test_silence_is_measured_against_what_the_replica_is_expected_to_take() -> None:
    world = World("ab")
    fast, slow = world.replicas
    world.answers(fast, 50, 0.1, 10.0)
    slow.reported(LoadReport(latency_us=900_000), 10.0)
    slow.endpoint.network.rtt_s = 0.1
    picker = world.picker()
    assert picker.first_byte_limit_s(fast, 60.0, 10.0) == pytest.approx(0.4, rel=0.05)
    assert picker.first_byte_limit_s(slow, 60.0, 10.0) == pytest.approx(4.0)


# probes


def test_send_is_followed_by_the_policy_s_probes_of_the_eligible() -> None:
    world = World("abc")
    world.endpoints[1].link = None
    assert [replica.endpoint.peer for replica in world.picker().probes(10.0)] == ["a", "c"]


def test_probe_s_answer_is_a_measurement_and_a_sign_of_life() -> None:
    world = World("a")
    (replica,) = world.replicas
    world.sent(replica).failed(replica, LinkLost("reset"), 0.001, 10.0)
    assert world.balancer.reprobes(10.04) == []
    assert world.balancer.reprobes(10.06) == [replica]
    world.balancer.probe_answered(replica, LOAD, 0.002, 10.062)
    assert replica.endpoint.network.rtt_s == 0.002
    assert (replica.load, replica.load_s) == (LOAD, 10.062)
    assert world.policy.news == [("a", 10.062)]
    assert replica.endpoint.health.may_send(10.062)
    assert [type(reported) for reported in world.balancer.tick(10.1)] == [Inhibited, Returned]
    assert world.balancer.reprobes(10.5) == []


def test_probe_without_answer_puts_out_only_who_is_on_its_way_back() -> None:
    world = World("ab")
    well, returning = world.replicas
    returning.endpoint.health.failed(4.5, is_hard=True)  # until 9.5, then a ramp
    for replica in (well, returning):
        world.balancer.probe_failed(replica, 10.0)
    assert well.endpoint.health.is_full
    assert not returning.endpoint.health.may_send(10.0)
    assert world.balancer.reprobes(10.1) == [returning]


def test_new_link_ends_what_the_loss_of_the_last_began() -> None:
    world = World("a")
    (replica,) = world.replicas
    world.sent(replica).failed(replica, LinkLost("reset"), 0.001, 10.0)
    world.balancer.linked(replica.endpoint, 10.3)
    assert replica.endpoint.health.may_send(10.3)


def test_node_is_alive_after_a_probe_that_was_sent_then_or_a_new_link() -> None:
    world = World("a")
    (replica,) = world.replicas
    picker = world.picker()
    assert not picker.is_alive(replica, 9.0)
    world.balancer.probe_answered(replica, LOAD, 0.5, 10.0)  # sent at 9.5
    assert picker.is_alive(replica, 9.5)
    assert not picker.is_alive(replica, 9.6)
    world.balancer.linked(replica.endpoint, 11.0)
    assert picker.is_alive(replica, 10.9)
    assert picker.is_back(replica, 10.5)
    assert not picker.is_back(replica, 11.0)


def test_load_that_a_node_reports_with_a_refusal_is_taken_over() -> None:
    world = World("a")
    (replica,) = world.replicas
    refusal = Overloaded("full")
    refusal.load = [7, 3, 8, 20_000, 10_000, 0, 40_000, 7]
    world.sent(replica).failed(replica, refusal, 0.001, 10.0)
    assert (replica.load.in_flight, replica.load.limit, replica.load_s) == (7, 8, 10.0)


# explanations


def test_desk_explains_where_its_request_went() -> None:
    world = World("abc")
    first, second, third = world.replicas
    third.endpoint.is_draining = True
    picker = world.picker(Constraints(max_price=2.0))
    picker.sent(picker.choose((), 10.0), 10.0)
    picker.failed(first, RunFailed("no memory"), 0.01, 10.01)
    picker.sent(picker.choose([first], 10.01), 10.01)
    picker.answered(second, LOAD, 0.1, 0.1, 8, 10.11)
    found = picker.explain(10.05)
    assert (found.model, found.version, found.policy) == ("m", "1", "first")
    assert found.chosen == ("a", "b")
    assert [(each.peer, each.refusal) for each in found.replicas] == [
        ("b", ""),
        ("a", "inhibited: run_failed: no memory, 0.0 s ago"),
        ("c", "draining"),
    ]


def test_desk_of_a_request_that_chose_nobody_explains_by_even_odds_and_without_panic() -> None:
    world = World("abc")
    out, back, _ = world.replicas
    out.health.eject(10.0)
    back.health.failed(4.0, is_hard=True)  # for 5 s, then half of a ramp: it gets 55%
    found = world.picker().explain(10.0)
    refusals = {each.peer: each.refusal for each in found.replicas}
    assert refusals["a"].startswith("ejected")
    assert (refusals["b"], refusals["c"]) == ("", "")


# laws

_ERRORS = [
    Overloaded("full", 0.2),
    Draining("bye"),
    RunFailed("x"),
    LinkLost("x"),
    InvalidRequest("x"),
]


def _is_desk(picker: Picker) -> Picker:
    return picker


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_counts_return_to_zero_and_a_link_that_is_up_is_tried_whatever_happens(
    seed: int, nodes: int
) -> None:
    rng = random.Random(seed)
    world = World("abcde"[:nodes])
    world.served.draw = rng.random
    now_s = 0.0
    for _ in range(60):
        now_s += rng.random() * 0.5
        up = [h for h in world.replicas if h.endpoint.is_usable]
        attempts = RequestAttempts(
            _is_desk(world.picker()),
            deadline_s=now_s + rng.choice([0.2, 5.0]),
            size_bytes=8,
            is_safe=rng.random() < 0.8,
            is_hedged=True,
        )
        todo = list(attempts.start(now_s))
        is_first = True
        under_way: list[int] = []
        while todo or under_way:
            for action in todo:
                match action:
                    case Send(attempt=attempt):
                        under_way.append(attempt)
                    case Withdraw(attempt=attempt):
                        under_way.remove(attempt)
                    case Failed(error=error):
                        assert not (is_first and up and isinstance(error, NoEndpoint))
                    case Answered():
                        pass
            is_first = False
            if not under_way:
                break
            match rng.randrange(4):
                case 0:
                    now_s = min(now_s + 1.0, attempts.due_s)
                    todo = list(attempts.tick(now_s))
                case 1:
                    now_s += 0.01
                    attempt = under_way.pop(rng.randrange(len(under_way)))
                    todo = list(attempts.answered(attempt, LOAD, 0.01, 8, now_s))
                case _:
                    attempt = under_way.pop(rng.randrange(len(under_way)))
                    todo = list(attempts.failed(attempt, rng.choice(_ERRORS), now_s))
        assert [replica.rif for replica in world.replicas] == [0] * nodes
        assert [endpoint.rif for endpoint in world.endpoints] == [0] * nodes
        rng.choice(world.endpoints).link = (
            None if rng.random() < 0.3 else Usable()  # type: ignore[assignment]
        )
        for replica in world.balancer.reprobes(now_s):
            world.balancer.probe_answered(replica, LOAD, 0.001, now_s)
        world.balancer.tick(now_s)


def test_replica_that_recovers_is_back_within_five_seconds_whatever_was_wrong() -> None:
    for error in (RunFailed("x"), LinkLost("x"), Overloaded("x", 60.0), Draining("x")):
        world = World("a")
        (replica,) = world.replicas
        for _ in range(12):
            world.sent(replica).failed(replica, error, 0.001, 10.0)
        now_s = 10.0
        while now_s < 15.0:
            now_s += 0.05
            for probed in world.balancer.reprobes(now_s):
                world.balancer.probe_answered(probed, LOAD, 0.001, now_s)
            if world.choice(now_s) == "a":
                world.sent(replica, now_s).answered(replica, LOAD, 0.01, 0.01, 8, now_s)
        assert replica.health.may_send(now_s)
        assert replica.endpoint.health.may_send(now_s)


def test_policy_that_is_only_asked_what_it_would_do_is_not_kept() -> None:
    served = World().served
    passing = served.foreseen_chooser("other", random.Random(0))
    kept = served.chooser("other")
    assert kept is not passing
    assert served.chooser("other") is served.foreseen_chooser("other", random.Random(0)) is kept


# the boundaries of one model's traffic


@pytest.mark.parametrize(
    ("error", "missed"),
    [
        (Overloaded("full"), REFUSED),
        (Draining("bye"), REFUSED),
        (InvalidRequest("shape"), REFUSED),
        (RunFailed("no memory"), FAILED),
        (LinkLost("reset"), FAILED),
        (LocalError("ours"), 0),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_failures_count_more_than_refusals_until_the_next_answer(
    error: CapameshError, missed: int
) -> None:
    world = World("a")
    (replica,) = world.replicas
    for times in (1, 2):
        world.served.failed(replica, error, 0.001, 10.0)
        assert replica.missed == times * missed
    world.answers(replica, 1, 0.1, 11.0)
    assert (replica.missed, replica.answered_s) == (0, 11.0)


@pytest.mark.parametrize("error", [InvalidRequest("shape"), RunFailed("no memory")])
def test_refusal_or_failed_run_is_a_sign_of_life_of_the_node(error: CapameshError) -> None:
    world = World("a")
    (replica,) = world.replicas
    replica.endpoint.health.failed(10.0, is_hard=True)
    world.served.failed(replica, error, 0.001, 10.5)
    assert replica.endpoint.health.may_send(10.5)


def test_replica_that_hangs_and_calls_a_request_wrong_is_back() -> None:
    world = World("a")
    (replica,) = world.replicas
    replica.health.failed(10.0, is_hard=True)
    world.served.failed(replica, InvalidRequest("shape"), 0.001, 10.5)
    assert replica.health.may_send(10.5)


def test_reason_of_a_failure_has_the_first_part_of_its_message() -> None:
    world = World("a")
    (replica,) = world.replicas
    world.served.failed(replica, RunFailed("x" * 200), 0.001, 10.0)
    assert replica.health.reason == "run_failed: " + "x" * 120


def test_replica_that_was_proved_wrong_is_doubted_for_a_minute() -> None:
    world = World("a")
    (replica,) = world.replicas
    replica.refuted_s = 10.0
    assert world.served.is_doubted(replica, 10.0 + GRAY_S - 0.5)
    assert not world.served.is_doubted(replica, 10.0 + GRAY_S)


def test_word_of_the_moment_at_which_a_request_was_sent_is_none_after_it() -> None:
    world = World("a")
    (replica,) = world.replicas
    replica.reported(LOAD, 10.0)
    world.served.silent(replica, 0.5, 10.5)
    assert replica.health.is_full
    assert replica.endpoint.health.reason == "silent for 500 ms"
    assert replica.missed == FAILED
    assert peak_ewma.cost_s(replica, 10.5) == peak_ewma.PENALTY_S


def test_request_that_was_waited_for_is_missed_from_one_second_on() -> None:
    world = World("a")
    (replica,) = world.replicas
    world.served.unanswered(replica, UNANSWERED_S - 0.001, 10.0)
    assert replica.missed == 0
    world.served.unanswered(replica, UNANSWERED_S, 10.0)
    assert replica.missed == REFUSED


def test_wait_that_is_just_what_was_expected_says_nothing() -> None:
    world = World("a")
    (replica,) = world.replicas
    world.answers(replica, 3, 0.1, 10.0)
    served = world.served
    served.unanswered(replica, served.window.quantile(0.5, 10.0), 10.0)
    assert (served.window.count, replica.unheard) == (3, 0)
    served.unanswered(replica, peak_ewma.cost_s(replica, 20.0), 20.0)
    assert (replica.peak_cost_s, replica.peak_seen_s) == (0.1, 10.0)


def test_node_that_says_too_late_has_taken_at_least_so_long() -> None:
    world = World("a")
    (replica,) = world.replicas
    world.answers(replica, 3, 0.1, 10.0)
    world.served.failed(replica, DeadlineExceeded("late"), 0.4, 10.0)
    assert world.served.window.count == 4
    assert peak_ewma.cost_s(replica, 10.0) == 0.4


def test_waits_count_as_unheard_only_since_the_last_report() -> None:
    world = World("a")
    (replica,) = world.replicas
    replica.reported(LOAD, 10.0)
    world.served.unanswered(replica, 1.0, 11.0)
    assert replica.unheard == 0
    for count in range(1, UNHEARD):
        world.served.unanswered(replica, 1.0 + count, 20.0)
        assert replica.unheard == count
    world.served.unanswered(replica, 1.0 + UNHEARD, 20.0)
    assert replica.unheard == 0
    assert not replica.endpoint.health.may_send(20.0)


def test_link_is_waited_for_as_long_as_a_restart_takes_since_it_was_lost() -> None:
    world = World("abc")
    first, second, third = world.replicas
    rules = Eligibility(now_s=100.0)
    served = world.served
    assert served.awaits_until_s(rules) == -math.inf
    first.endpoint.link = None
    first.endpoint.unlinked_s = 50.0
    assert served.awaits_until_s(rules) == 100.0  # too long ago: there is no telling when
    second.endpoint.link = None
    second.endpoint.unlinked_s = 95.0
    assert served.awaits_until_s(rules) == 95.0 + RESTART_S
    world.fleet.apply([Joined(advert("v"))])  # a node that was never reached
    assert served.awaits_until_s(rules) == 95.0 + RESTART_S
    third.set_away(True)
    assert served.awaits_until_s(rules) == 100.0 + RESTART_S
    third.set_away(False)
    third.endpoint.link.is_usable = False  # type: ignore[union-attr,misc]
    third.endpoint.unlinked_s = -math.inf
    assert served.awaits_until_s(rules) == 100.0 + RESTART_S


def test_node_that_was_never_reached_is_waited_for_without_telling_when() -> None:
    world = World("a")
    world.fleet.apply([Joined(advert("v"))])
    assert world.served.awaits_until_s(Eligibility(now_s=100.0)) == 100.0


def test_other_rules_change_the_policy_and_keep_the_one_of_before_and_weigh_tenants_anew() -> None:
    served = World("a", ModelRules(policy="first")).served
    first, other = served.policy, served.chooser("other")
    assert served.chooser("first") is served.foreseen_chooser("first", random.Random(0)) is first
    served.take_rules(ModelRules(policy="other", is_hedged=False))
    assert served.policy is served.chooser("") is other
    assert served.chooser("first") is first
    assert not served.hedging.is_enabled
    served.take_rules(ModelRules(policy="other", tenants=(("gold", 3.0),)))
    assert served.policy is other
    assert served.hedging.is_enabled
    assert served.admission.fair.weight("gold") == 3.0


def test_measurements_of_who_is_gone_are_forgotten() -> None:
    world = World("ab")
    for replica in world.replicas:
        world.answers(replica, 1, 0.1, 10.0)
    served = world.served
    world.leave("a")
    served.tick(11.0)
    assert repr(served._load_check) == "ReportedLoadCheck(1 hosts measured)"


def test_model_that_is_slow_is_reported_by_its_name() -> None:
    world = World("abc")
    for replica, elapsed_s in zip(world.replicas, (0.5, 0.01, 0.01), strict=True):
        world.answers(replica, 120, elapsed_s, 10.0)
    (slowed,) = world.served.tick(12.5)
    assert (slowed.address, slowed.model, slowed.version) == ("a:1", "m", "1")


def test_nodes_of_a_model_are_its_witnesses_and_it_is_safe_to_ask_two_of_them() -> None:
    served = World("ab").served
    assert list(served.peers()) == ["a", "b"]
    assert list(served.witnesses()) == [Witness(PeerId("a"), ""), Witness(PeerId("b"), "")]
    assert served.rules.is_retried
