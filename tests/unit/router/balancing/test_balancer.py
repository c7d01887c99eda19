from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
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
    NoCandidate,
    NotMember,
    Overloaded,
    PeerError,
    ProtocolViolation,
    RunFailed,
)
from capamesh.protocol.fleet import Joined, Left, LeftReason
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.eligibility import ANYWHERE, Constraints
from capamesh.router.balancing.opinions import MOST
from capamesh.router.balancing.picker import TrafficDesk
from capamesh.router.balancing.served_model import ModelTraffic, Terms
from capamesh.router.balancing.unhealthy import Ejected, Inhibited, Returned, Slowed
from capamesh.router.fleet import latency_ewma as peak_ewma
from capamesh.router.fleet.endpoint import Candidate
from capamesh.router.fleet.replica import Host
from capamesh.router.fleet.view import FleetView
from capamesh.router.policies.policy import IsEligible, RequestShape
from capamesh.router.requests.attempt_events import Answered, Desk, Failed, Send, Withdraw
from capamesh.router.requests.attempts import Flight
from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.retry_budget import RETRIES

M, ANY, V1 = ModelName("m"), ModelVersion(""), ModelVersion("1")
SHAPE = RequestShape(M, V1, 8)
LOAD = LoadReport(in_flight=3, limit=8, latency_us=10_000)


class FirstEligible:
    """Picks the first that is eligible, and keeps what it was told."""

    name: ClassVar[str] = "first"

    def __init__(self) -> None:
        self.news: list[tuple[str, float]] = []
        self.sends: list[tuple[str, float]] = []
        self.picks = 0
        self.probed = 0

    def pick(
        self, hosts: Sequence[Host], is_eligible: IsEligible, request: RequestShape, now_s: float
    ) -> Host | None:
        assert request is SHAPE
        self.picks += 1
        return next((host for host in hosts if is_eligible(host)), None)

    def told(self, host: Host, now_s: float) -> None:
        self.news.append((host.candidate.peer, now_s))

    def sent(self, host: Host, now_s: float) -> None:
        self.sends.append((host.candidate.peer, now_s))

    def probes(
        self, hosts: Sequence[Host], is_eligible: IsEligible, now_s: float
    ) -> Sequence[Host]:
        self.probed += 1
        return tuple(host for host in hosts if is_eligible(host))


class World:
    """Nodes named by letters that host m version 1, with their links up."""

    def __init__(self, peers: str = "abc", terms: Terms | None = None, luck: float = 0.5) -> None:
        self.candidates: list[Candidate] = []
        self.fleet = FleetView(on_new=self._new, on_gone=lambda _: None)
        self.policies: dict[str, FirstEligible] = {}
        self.balancer = Balancer(
            self.fleet,
            make_policy=self._policy,
            chance=Draws(*[luck] * 1000),
            rules=lambda _: terms or Terms(),
        )
        for peer in peers:
            self.join(peer)

    def _new(self, candidate: Candidate) -> None:
        candidate.link = Usable()  # type: ignore[assignment]
        self.candidates.append(candidate)

    def _policy(self, name: str) -> FirstEligible:
        self.policies[name] = FirstEligible()
        return self.policies[name]

    def join(self, peer: str, version: str = "1", counter: int = 1) -> None:
        told = advert(peer, f"{peer}:1", models=[offer(version=version)], counter=counter)
        self.fleet.apply([Joined(told)])

    def leave(self, *peers: str) -> None:
        self.fleet.apply([Left(PeerId(peer), LeftReason.GOODBYE) for peer in peers])

    @property
    def traffic(self) -> ModelTraffic:
        return self.balancer.traffic(M, V1)

    @property
    def policy(self) -> FirstEligible:
        policy = self.traffic.policy
        assert isinstance(policy, FirstEligible)
        return policy

    @property
    def hosts(self) -> tuple[Host, ...]:
        return self.fleet.hosts(M, V1)

    def desk(self, constraints: Constraints = ANYWHERE) -> TrafficDesk:
        return self.traffic.desk(constraints, SHAPE)

    def choice(self, now_s: float, *asked: Host, desk: TrafficDesk | None = None) -> str:
        return (desk or self.desk()).choose(asked, now_s).candidate.peer

    def sent(self, host: Host, now_s: float = 10.0) -> TrafficDesk:
        desk = self.desk()
        desk.sent(host, now_s)
        return desk

    def answers(self, host: Host, times: int, elapsed_s: float, now_s: float) -> None:
        for _ in range(times):
            self.sent(host, now_s).answered(host, LOAD, elapsed_s, 0.0, 8, now_s)


def earn_hedges(world: World, hedges: int) -> None:
    for _ in range(20 * hedges):
        world.traffic.hedging.sent(10.0)


# the facade


def test_a_model_has_one_traffic_and_an_empty_version_is_the_newest() -> None:
    world = World("ab", Terms(policy="cheapest"))
    first = world.balancer.traffic(M, ANY)
    assert first is world.balancer.traffic(M, V1)
    assert list(world.policies) == ["cheapest"]
    assert repr(first) == "ModelTraffic('m' 1 by first, 2 hosts)"
    world.join("c", version="10")
    second = world.balancer.traffic(M, ANY)
    assert (second.version, second.hosts[0].candidate.peer) == ("10", "c")
    assert world.balancer.traffics() == [first, second]
    assert repr(world.balancer) == "Balancer(2 models in use, Troubles(0))"


def test_names_that_nobody_hosts_leave_nothing_behind() -> None:
    world = World("a")
    with pytest.raises(ModelNotFound, match="no node hosts model 'x'; hosted models: m"):
        world.balancer.traffic(ModelName("x"), ANY)
    with pytest.raises(ModelNotFound, match="model 'm' has no version '7'; its versions: 1"):
        world.balancer.traffic(M, ModelVersion("7"))
    with pytest.raises(NoCandidate, match="has not heard of any node yet"):
        World("").balancer.traffic(M, ANY)
    assert world.balancer.traffics() == []


def test_the_traffic_of_a_model_that_is_gone_is_forgotten_and_its_desks_still_work() -> None:
    world = World("a")
    (host,) = world.hosts
    desk = world.sent(host)
    world.leave("a")
    world.balancer.tick(11.0)
    assert world.balancer.traffics() == []
    desk.answered(host, LOAD, 1.0, 0.0, 8, 11.0)
    assert (host.rif, host.candidate.rif) == (0, 0)
    with pytest.raises(ModelUnavailable, match="was here of late"):
        desk.choose((), 11.0)


def test_a_host_that_leaves_three_in_a_row_to_others_without_a_word_is_taken_for_silent() -> None:
    world = World("ab")
    host = world.hosts[0]
    for number in range(3):
        assert host.candidate.health.may_send(20.0 + number)
        world.sent(host).withdrawn(host, 1.0, 20.0 + number)
    assert not host.candidate.health.may_send(22.0)
    assert host.candidate.health.reason == "silent for 1000 ms"


def test_a_host_that_tells_its_load_meanwhile_is_merely_slow() -> None:
    world = World("ab")
    host = world.hosts[0]
    for number in range(6):
        desk = world.sent(host)
        world.balancer.probe_answered(host, LOAD, 0.001, 19.5 + number)
        desk.withdrawn(host, 1.0, 20.0 + number)
    assert host.candidate.health.is_full
    assert host.health.is_full


def test_requests_that_their_callers_gave_up_soon_say_nothing_of_a_host() -> None:
    world = World("ab")
    host = world.hosts[0]
    for _ in range(30):
        world.sent(host).answered(host, LOAD, 0.5, 0.0, 8, 10.0)
    for _ in range(9):
        world.sent(host).withdrawn(host, 0.01, 20.0)
    assert host.candidate.health.is_full


def test_a_policy_knows_what_was_told_before_its_first_request() -> None:
    world = World("ab")
    world.balancer.probe_answered(world.hosts[1], LOAD, 0.001, 9.0)
    assert (world.hosts[1].load, world.hosts[1].load_s) == (LOAD, 9.0)
    assert world.policy.news == [("b", 9.0)]


# choosing


def test_the_policy_sees_the_eligible_and_none_that_was_asked() -> None:
    world = World("abc")
    first, second, _ = world.hosts
    assert world.choice(10.0) == "a"
    assert world.choice(10.0, first) == "b"
    second.candidate.is_draining = True
    assert world.choice(10.0, first) == "c"


def test_when_no_link_is_up_the_error_says_what_is_wrong_with_whom() -> None:
    world = World("abc")
    for candidate in world.candidates[:2]:
        candidate.link = None
    world.candidates[2].is_draining = True
    with pytest.raises(NoCandidate) as caught:
        world.choice(10.0)
    assert caught.value.message == (
        "model 'm' is hosted, but no node that has it can be reached now"
        " (2 of 3: no link; 1 of 3: draining); try again soon"
    )
    world = World("")
    world.fleet.apply([Joined(advert("v"))])
    with pytest.raises(NoCandidate, match="none has a link to this router"):
        world.choice(10.0)


def test_a_request_s_constraints_and_the_operator_s_hold_together() -> None:
    world = World("ab", Terms(constraints=Constraints(regions=frozenset({"eu", "us"}))))
    world.hosts[0].advert = dataclasses.replace(world.hosts[0].advert, region="ap")
    assert world.choice(10.0) == "b"
    with pytest.raises(NoCandidate, match="region ap is not us; 1 of 2: region eu is not us"):
        world.choice(10.0, desk=world.desk(Constraints(regions=frozenset({"us"}))))


def test_when_none_can_meet_the_deadline_the_soonest_tries() -> None:
    world = World("ab")
    for host, latency_us in zip(world.hosts, (90_000, 80_000), strict=True):
        host.told(LoadReport(latency_us=latency_us), 9.0)
    desk = world.traffic.desk(ANYWHERE, SHAPE, deadline_s=10.085)
    assert world.choice(10.0, desk=desk) == "b"
    assert world.choice(10.02, desk=desk) == "b"
    assert world.choice(10.02, world.hosts[1], desk=desk) == "a"


def test_a_retry_tries_the_inhibited_rather_than_none_and_a_hedge_does_not() -> None:
    world = World("ab")
    first, second = world.hosts
    second.candidate.health.failed(9.9, is_hard=True)
    desk = world.desk()
    assert world.choice(10.0, first, desk=desk) == "b"
    earn_hedges(world, 2)
    assert desk.try_hedge(10.0)
    with pytest.raises(NoCandidate, match="inhibited: no answer"):
        desk.choose([first], 10.0)
    assert world.choice(10.0, first, desk=desk) == "b"
    assert desk.try_hedge(10.0)
    second.candidate.health.probed(10.0)
    assert world.choice(10.0, first, desk=desk) == "b"


def test_when_more_than_half_are_ejected_ejections_are_ignored() -> None:
    world = World("abc")
    for count, host in enumerate(world.hosts[:2], 1):
        host.health.eject(10.0)
        world.traffic._troubles.note(host, 10.0)
        assert world.choice(10.0 + count) == ("b" if count == 1 else "a")
    assert world.choice(12.05) == "a"


def test_ejections_are_counted_again_only_after_a_while() -> None:
    world = World("ab")
    first, _ = world.hosts
    first.candidate.health.eject(10.0)
    world.traffic._troubles.note(first, 10.0)
    assert world.choice(10.0) == "b"
    world.candidates[1].link = None  # one of one is ejected now: a panic, noticed in 0.1 s
    assert not world.traffic.is_panicking(world.hosts, 10.09)
    assert world.traffic.is_panicking(world.hosts, 10.11)
    assert world.choice(10.11) == "a"


def test_a_request_may_ask_for_another_policy_and_all_policies_learn_from_all_requests() -> None:
    world = World("ab")
    host = world.hosts[0]
    usual = world.traffic.desk(ANYWHERE, SHAPE, policy="prequal")
    other = world.traffic.desk(ANYWHERE, SHAPE, policy="affinity")
    again = world.traffic.desk(ANYWHERE, SHAPE, policy="affinity")
    assert list(world.policies) == ["prequal", "affinity"]
    for desk in (usual, other, again):
        desk.sent(desk.choose((), 10.0), 10.0)
    again.answered(host, LOAD, 0.1, 0.1, 8, 10.1)
    for policy in world.policies.values():
        assert policy.news == [("a", 10.1)]
    assert world.policies["prequal"].picks == 1
    assert world.policies["affinity"].picks == 2
    assert world.policies["prequal"].sends == [("a", 10.0)] * 3
    assert world.policies["affinity"].sends == [("a", 10.0)] * 3
    assert world.traffic.probes(10.1) == list(world.hosts)
    assert (world.policies["prequal"].probed, world.policies["affinity"].probed) == (0, 1)


# what outcomes mean


def test_each_way_to_end_ends_the_count_that_sent_began() -> None:
    world = World("a")
    (host,) = world.hosts
    desk = world.desk()
    for _ in range(3):
        desk.sent(host, 10.0)
    assert (host.rif, host.candidate.rif) == (3, 3)
    idle: list[str] = []
    host.candidate.retire(lambda: idle.append("idle"))
    desk.answered(host, LOAD, 0.1, 0.0, 8, 10.1)
    desk.silent(host, 0.1, 10.1)
    desk.failed(host, RunFailed("x"), 0.1, 10.1)
    assert (host.rif, host.candidate.rif, idle) == (1, 1, [])
    desk.withdrawn(host, 0.1, 10.1)
    assert (host.rif, host.candidate.rif, idle) == (0, 0, ["idle"])
    assert desk.chosen == (host,) * 3


def test_an_answer_is_told_to_all_whom_it_concerns() -> None:
    world = World("a")
    (host,) = world.hosts
    host.candidate.network.rtt_s = 0.01
    world.sent(host).answered(host, LOAD, 0.06, 0.05, 1_000_000, 10.06)
    assert host.candidate.answered == 1
    assert (host.load.in_flight, host.load_s) == (3, 10.06)
    assert (world.policy.sends, world.policy.news) == ([("a", 10.0)], [("a", 10.06)])
    assert peak_ewma.cost_s(host, 10.06) == 0.06
    assert world.traffic.window.quantile(0.5, 10.06) == pytest.approx(0.06, rel=0.05)
    assert host.candidate.network.bytes_per_s == 0  # no time is left that was the network's
    world.sent(host).answered(host, LOAD, 0.26, 0.05, 1_000_000, 10.26)
    assert host.candidate.network.bytes_per_s == pytest.approx(5e6)


CLOSED, INHIBITED = CircuitState.CLOSED, CircuitState.INHIBITED


@pytest.mark.parametrize(
    ("error", "of_host", "of_candidate", "until_s", "failed"),
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
def test_an_error_is_blamed_on_whom_it_concerns_for_as_long_as_it_matters(
    error: CapameshError,
    of_host: CircuitState,
    of_candidate: CircuitState,
    until_s: float,
    failed: int,
) -> None:
    world = World("a")
    (host,) = world.hosts
    world.sent(host).failed(host, error, 0.001, 10.0)
    assert (host.health.state(10.0), host.candidate.health.state(10.0)) == (of_host, of_candidate)
    assert host.candidate.failed == failed
    assert bool(world.traffic._troubles) == bool(failed)
    assert (host.rif, host.candidate.rif) == (0, 0)
    assert (peak_ewma.cost_s(host, 10.0) == 5.0) == bool(failed)
    if of_host is not of_candidate:
        one = host.health if of_host is INHIBITED else host.candidate.health
        assert not one.may_send(until_s - 0.001)
        assert one.may_send(until_s + 0.001)


def test_who_refused_what_another_answered_is_blamed_as_for_a_failed_run() -> None:
    world = World("ab")
    host, other = world.hosts
    error = InvalidRequest("odd shape")
    for times in range(1, 6):
        desk = world.sent(host)
        desk.failed(host, error, 0.001, 10.0)
        desk.refuted(host, other, error, 0.001, 10.0 + times)
        assert host.candidate.failed == times
    assert host.health.state(15.0) is CircuitState.EJECTED
    assert host.candidate.health.is_full
    assert peak_ewma.cost_s(host, 15.0) == 5.0
    assert host.health.reason == "5 failures in a row"
    assert (host.rif, host.candidate.rif) == (0, 0)


def test_only_an_opinion_that_was_taken_is_given_back() -> None:
    world = World("ab")
    host, other = world.hosts
    error, opinions = InvalidRequest("odd shape"), world.traffic._opinions
    for at in range(3):
        assert opinions.try_take(10.0), at
    for _ in range(
        5
    ):  # a hedge has answered what the first refused: nobody was asked for an opinion
        desk = world.sent(host)
        desk.failed(host, error, 0.001, 10.0)
        desk.refuted(host, other, error, 0.001, 10.0)
    assert repr(opinions) == "Opinions(47.0 left)"
    host.health.probed(10.0)
    for refuted_s, left in ((10.0, "47.0"), (-1e6, "46.0")):  # doubted, then believed
        host.refuted_s = refuted_s
        desk = world.sent(host)
        desk.failed(host, error, 0.001, 10.0)
        assert desk.second(host, {host}, 10.0) is other
        assert repr(opinions) == f"Opinions({left} left)"
        desk.refuted(host, other, error, 0.001, 10.0)
        assert repr(opinions) == "Opinions(47.0 left)"


def test_what_is_wrong_for_one_version_may_be_right_for_another() -> None:
    world = World("a")
    world.join("b", version="2")
    (host,), (other,) = world.hosts, world.fleet.hosts(M, ModelVersion("2"))
    desk = world.sent(host)
    desk.failed(host, InvalidRequest("odd shape"), 0.001, 10.0)
    desk.refuted(host, other, InvalidRequest("odd shape"), 0.001, 10.0)
    assert host.health.is_full


def test_a_deadline_is_far_away_by_what_the_node_itself_takes() -> None:
    world = World("a")
    (host,) = world.hosts
    assert not world.desk().is_ample(host, 0.05)
    assert world.desk().is_ample(host, 0.06)
    host.candidate.network.rtt_s = 0.1
    assert not world.desk().is_ample(host, 0.15)
    host.told(LoadReport(latency_us=1_000_000), 10.0)
    assert not world.desk().is_ample(host, 4.0)
    assert world.desk().is_ample(host, 4.2)


def test_second_opinions_have_a_budget_of_their_own_that_time_refills() -> None:
    world = World("ab")
    first, second = world.hosts
    assert world.desk().second(first, [first, second], 10.0) is None  # for which nothing is taken
    opinions = sum(world.desk().second(first, [first], 10.0) is second for _ in range(400))
    retries = sum(world.desk().try_retry(10.0) for _ in range(1000))
    assert (opinions, retries) == (MOST, RETRIES.reserve)
    opinions = sum(world.desk().second(first, [first], 15.0) is second for _ in range(99))
    assert opinions == 5
    assert World("ab", Terms(is_retried=False)).desk().second(first, [first], 10.0) is None
    world = World("ab")
    world.hosts[1].health.failed(10.0, is_hard=True)
    assert world.desk().second(world.hosts[0], world.hosts[:1], 10.0) is None  # it is not well


def test_silence_is_the_node_s_unless_it_has_spoken_of_the_model_since() -> None:
    world = World("ab")
    mute, hanging = world.hosts
    for host, told_s in ((mute, 9.9), (hanging, 10.2)):
        desk = world.sent(host, 10.0)
        host.told(LOAD, told_s)
        desk.silent(host, 0.5, 10.5)
    assert mute.candidate.health.reason == "silent for 500 ms"
    assert [health.may_send(10.5) for health in (mute.health, mute.candidate.health)] == [
        True,
        False,
    ]
    assert [h.may_send(10.5) for h in (hanging.health, hanging.candidate.health)] == [False, True]
    assert world.balancer.reprobes(10.55) == [mute, hanging]
    assert [verdict.model for verdict in world.balancer.tick(10.6)] == ["", "m"]


def test_a_silent_one_that_answers_after_all_is_back_at_once() -> None:
    world = World("a")
    (host,) = world.hosts
    desk = world.sent(host)
    desk.silent(host, 0.5, 10.5)
    desk.answered(host, LOAD, 0.6, 0.6, 8, 10.6)
    assert host.candidate.health.may_send(10.6)


def test_a_lone_host_that_works_through_a_burst_is_slow_and_not_silent() -> None:
    world = World("a", Terms(is_hedged=False))
    (host,) = world.hosts
    world.answers(host, 100, 0.14, 9.0)
    flights = [
        Flight(world.desk(), deadline_s=70.0, size_bytes=8, is_safe=True, is_hedged=False)
        for _ in range(64)
    ]
    for flight in flights:
        flight.start(10.0)
    for number, flight in enumerate(flights, 1):  # one each 17 ms: the last waits for longer than
        now_s = (
            10.0 + 0.017 * number
        )  # three times the old 99th percentile and 4 times what was told
        for waiting in flights[number - 1 :]:
            waiting.tick(now_s)
        load = LoadReport(in_flight=64, limit=64, latency_us=int(17_000 * number))
        assert flight.answered(0, load, 0.017 * number, 8, now_s) == (Answered(0),)
        assert host.candidate.health.is_full
        assert host.health.is_full
    assert (host.rif, host.candidate.rif) == (0, 0)


def test_a_host_is_busy_since_its_requests_in_flight_were_none() -> None:
    world = World("a")
    (host,) = world.hosts
    first, second = world.sent(host, 10.0), world.sent(host, 11.0)
    first.answered(host, LOAD, 1.5, 1.5, 8, 11.5)
    assert host.busy_s == 10.0
    second.withdrawn(host, 1.0, 12.0)
    world.sent(host, 13.0)
    assert host.busy_s == 13.0


def test_a_withdrawn_request_counts_only_where_it_took_longer_than_usual() -> None:
    world = World("a")
    (host,) = world.hosts
    world.answers(host, 3, 0.1, 10.0)
    world.sent(host).withdrawn(host, 0.05, 10.5)
    assert peak_ewma.cost_s(host, 10.5) == pytest.approx(0.1 * math.exp(-0.05))
    assert world.traffic.window.count == 3
    world.sent(host).withdrawn(host, 0.4, 10.0)
    assert peak_ewma.cost_s(host, 10.0) == 0.4
    assert world.traffic.window.count == 4


def test_a_lost_link_s_many_requests_are_one_failure_to_the_watch_for_outliers() -> None:
    world = World("abc")
    for host in world.hosts:
        world.answers(host, 30, 0.01, 10.0)
    first = world.hosts[0]
    desks = [world.sent(first) for _ in range(300)]
    for desk in desks:
        desk.failed(first, LinkLost("reset"), 0.01, 10.5)
    assert world.balancer.tick(13.0) == [
        Inhibited(PeerId("a"), "a:1", "", "", "link_lost: reset"),
    ]


def test_who_fails_most_of_what_others_answer_is_ejected_and_told_of() -> None:
    world = World("abc")
    first = world.hosts[0]
    for host in world.hosts[1:]:
        world.answers(host, 40, 0.01, 10.0)
    for _ in range(40):
        world.sent(first).failed(first, RunFailed("no memory"), 0.001, 10.0)
    assert world.balancer.tick(10.0) == [
        Inhibited(PeerId("a"), "a:1", "m", "1", "run_failed: no memory")
    ]
    told = world.balancer.tick(12.5)
    assert told == [Ejected(PeerId("a"), "a:1", "m", "1", told[0].reason)]
    assert told[0].reason == "100% of 40 requests failed, 0% elsewhere"


def test_who_is_slow_beside_the_others_is_told_of_and_keeps_its_requests() -> None:
    world = World("abc")
    for host, elapsed_s in zip(world.hosts, (0.5, 0.01, 0.01), strict=True):
        world.answers(host, 120, elapsed_s, 10.0)
    told = world.balancer.tick(12.5)
    assert [type(verdict) for verdict in told] == [Slowed]
    assert told[0].peer == "a"
    assert world.choice(12.5) == "a"


def test_an_answer_of_who_is_gone_does_not_bring_it_back() -> None:
    world = World("ab")
    gone = world.hosts[0]
    desk = world.sent(gone)
    world.leave("a")
    desk.answered(gone, LOAD, 0.1, 0.0, 8, 10.1)
    world.balancer.probe_answered(gone, LOAD, 0.001, 10.2)
    assert gone.is_gone
    assert gone.load == LoadReport()
    assert world.policy.news == []
    assert [host.candidate.peer for host in world.hosts] == ["b"]
    assert gone.rif == gone.candidate.rif == 0


def test_who_always_says_that_it_is_idle_and_fast_is_not_believed() -> None:
    world = World("a")
    (liar,) = world.hosts
    lie = LoadReport(limit=1000, latency_us=1)
    desks = [world.sent(liar) for _ in range(5)]
    desks[0].answered(liar, lie, 0.2, 0.0, 8, 10.2)
    assert (liar.load.in_flight, liar.load.latency_us) == (4, 200_000)
    world.balancer.probe_answered(liar, lie, 0.001, 10.2)
    assert liar.service_s() == 0.2


def test_a_refusal_for_lack_of_room_is_told_to_who_wants_to_know() -> None:
    world = World("a")
    (host,) = world.hosts
    told: list[tuple[Host, float, float, bool]] = []
    world.traffic.on_refused = lambda *what, is_urgent: told.append((*what, is_urgent))
    world.sent(host).failed(host, Overloaded("full", 0.4), 0.001, 10.0)
    world.sent(host).failed(host, Draining("bye"), 0.001, 10.0)
    assert told == [(host, 0.4, 10.0, False)]


# budgets


def test_a_request_earns_once_however_often_it_is_sent() -> None:
    world = World("ab")
    first, second = world.hosts
    traffic = world.traffic
    before = traffic.budget.balance(10.0)
    desk = world.sent(first)
    desk.sent(second, 10.0)
    assert traffic.budget.balance(10.0) == pytest.approx(before + 0.2)
    assert desk.try_retry(10.0)
    assert traffic.budget.balance(10.0) == pytest.approx(before - 0.8)
    assert not desk.try_hedge(10.0)
    for _ in range(20):
        world.sent(first).withdrawn(first, 0.001, 10.0)
    assert desk.try_hedge(10.0)
    assert not desk.try_hedge(10.0)


def test_the_operator_may_forbid_retries_and_hedges() -> None:
    world = World("a", Terms(is_retried=False, is_hedged=False))
    (host,) = world.hosts
    world.answers(host, 50, 0.1, 10.0)
    desk = world.desk()
    assert not world.traffic.is_safe
    assert not desk.try_retry(10.0)
    assert not desk.try_hedge(10.0)
    assert desk.hedge_delay_s(10.0) is None
    allowed = World("a")
    allowed.answers(allowed.hosts[0], 50, 0.1, 10.0)
    assert allowed.desk().hedge_delay_s(10.0) == pytest.approx(0.1, rel=0.05)


def test_silence_is_measured_against_what_the_host_is_expected_to_take() -> None:
    world = World("ab")
    fast, slow = world.hosts
    world.answers(fast, 50, 0.1, 10.0)
    slow.told(LoadReport(latency_us=900_000), 10.0)
    slow.candidate.network.rtt_s = 0.1
    desk = world.desk()
    assert desk.first_byte_limit_s(fast, 60.0, 10.0) == pytest.approx(0.4, rel=0.05)
    assert desk.first_byte_limit_s(slow, 60.0, 10.0) == pytest.approx(4.0)


# probes


def test_a_send_is_followed_by_the_policy_s_probes_of_the_eligible() -> None:
    world = World("abc")
    world.candidates[1].link = None
    assert [host.candidate.peer for host in world.traffic.probes(10.0)] == ["a", "c"]


def test_a_probe_s_answer_is_a_measurement_and_a_sign_of_life() -> None:
    world = World("a")
    (host,) = world.hosts
    world.sent(host).failed(host, LinkLost("reset"), 0.001, 10.0)
    assert world.balancer.reprobes(10.04) == []
    assert world.balancer.reprobes(10.06) == [host]
    world.balancer.probe_answered(host, LOAD, 0.002, 10.062)
    assert host.candidate.network.rtt_s == 0.002
    assert (host.load, host.load_s) == (LOAD, 10.062)
    assert world.policy.news == [("a", 10.062)]
    assert host.candidate.health.may_send(10.062)
    assert [type(told) for told in world.balancer.tick(10.1)] == [Inhibited, Returned]
    assert world.balancer.reprobes(10.5) == []


def test_a_probe_without_answer_puts_out_only_who_is_on_its_way_back() -> None:
    world = World("ab")
    well, returning = world.hosts
    returning.candidate.health.failed(4.5, is_hard=True)  # until 9.5, then a ramp
    for host in (well, returning):
        world.balancer.probe_failed(host, 10.0)
    assert well.candidate.health.is_full
    assert not returning.candidate.health.may_send(10.0)
    assert world.balancer.reprobes(10.1) == [returning]


def test_a_new_link_ends_what_the_loss_of_the_last_began() -> None:
    world = World("a")
    (host,) = world.hosts
    world.sent(host).failed(host, LinkLost("reset"), 0.001, 10.0)
    world.balancer.linked(host.candidate, 10.3)
    assert host.candidate.health.may_send(10.3)


def test_a_node_is_alive_after_a_probe_that_was_sent_then_or_a_new_link() -> None:
    world = World("a")
    (host,) = world.hosts
    desk = world.desk()
    assert not desk.is_alive(host, 9.0)
    world.balancer.probe_answered(host, LOAD, 0.5, 10.0)  # sent at 9.5
    assert desk.is_alive(host, 9.5)
    assert not desk.is_alive(host, 9.6)
    world.balancer.linked(host.candidate, 11.0)
    assert desk.is_alive(host, 10.9)
    assert desk.is_back(host, 10.5)
    assert not desk.is_back(host, 11.0)


def test_what_a_node_says_of_its_load_with_a_refusal_is_taken_over() -> None:
    world = World("a")
    (host,) = world.hosts
    refusal = Overloaded("full")
    refusal.load = [7, 3, 8, 20_000, 10_000, 0, 40_000, 7]
    world.sent(host).failed(host, refusal, 0.001, 10.0)
    assert (host.load.in_flight, host.load.limit, host.load_s) == (7, 8, 10.0)


# explanations


def test_a_desk_explains_where_its_request_went() -> None:
    world = World("abc")
    first, second, third = world.hosts
    third.candidate.is_draining = True
    desk = world.desk(Constraints(max_price=2.0))
    desk.sent(desk.choose((), 10.0), 10.0)
    desk.failed(first, RunFailed("no memory"), 0.01, 10.01)
    desk.sent(desk.choose([first], 10.01), 10.01)
    desk.answered(second, LOAD, 0.1, 0.1, 8, 10.11)
    found = desk.explain(10.05)
    assert (found.model, found.version, found.policy) == ("m", "1", "first")
    assert found.chosen == ("a", "b")
    assert [(each.peer, each.refusal) for each in found.candidates] == [
        ("b", ""),
        ("a", "inhibited: run_failed: no memory, 0.0 s ago"),
        ("c", "draining"),
    ]


# laws

_ERRORS = [
    Overloaded("full", 0.2),
    Draining("bye"),
    RunFailed("x"),
    LinkLost("x"),
    InvalidRequest("x"),
]


def _is_desk(desk: Desk) -> Desk:
    return desk


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_whatever_happens_counts_return_to_zero_and_a_link_that_is_up_is_tried(
    seed: int, nodes: int
) -> None:
    chance = random.Random(seed)
    world = World("abcde"[:nodes])
    world.traffic.draw = chance.random
    now_s = 0.0
    for _ in range(60):
        now_s += chance.random() * 0.5
        up = [h for h in world.hosts if h.candidate.is_usable]
        flight = Flight(
            _is_desk(world.desk()),
            deadline_s=now_s + chance.choice([0.2, 5.0]),
            size_bytes=8,
            is_safe=chance.random() < 0.8,
            is_hedged=True,
        )
        todo = list(flight.start(now_s))
        is_first = True
        under_way: list[int] = []
        while todo or under_way:
            for action in todo:
                match action:
                    case Send(attempt):
                        under_way.append(attempt)
                    case Withdraw(attempt):
                        under_way.remove(attempt)
                    case Failed(error):
                        assert not (is_first and up and isinstance(error, NoCandidate))
                    case Answered():
                        pass
            is_first = False
            if not under_way:
                break
            match chance.randrange(4):
                case 0:
                    now_s = min(now_s + 1.0, flight.due_s)
                    todo = list(flight.tick(now_s))
                case 1:
                    now_s += 0.01
                    attempt = under_way.pop(chance.randrange(len(under_way)))
                    todo = list(flight.answered(attempt, LOAD, 0.01, 8, now_s))
                case _:
                    attempt = under_way.pop(chance.randrange(len(under_way)))
                    todo = list(flight.failed(attempt, chance.choice(_ERRORS), now_s))
        assert [host.rif for host in world.hosts] == [0] * nodes
        assert [candidate.rif for candidate in world.candidates] == [0] * nodes
        chance.choice(world.candidates).link = (
            None if chance.random() < 0.3 else Usable()  # type: ignore[assignment]
        )
        for host in world.balancer.reprobes(now_s):
            world.balancer.probe_answered(host, LOAD, 0.001, now_s)
        world.balancer.tick(now_s)


def test_who_recovers_is_back_within_five_seconds_whatever_was_wrong() -> None:
    for error in (RunFailed("x"), LinkLost("x"), Overloaded("x", 60.0), Draining("x")):
        world = World("a")
        (host,) = world.hosts
        for _ in range(12):
            world.sent(host).failed(host, error, 0.001, 10.0)
        now_s = 10.0
        while now_s < 15.0:
            now_s += 0.05
            for probed in world.balancer.reprobes(now_s):
                world.balancer.probe_answered(probed, LOAD, 0.001, now_s)
            if world.choice(now_s) == "a":
                world.sent(host, now_s).answered(host, LOAD, 0.01, 0.01, 8, now_s)
        assert host.health.may_send(now_s)
        assert host.candidate.health.may_send(now_s)
