from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from fleet_fakes import InOrder, advert
from replicas import Draws, Usable

from capamesh.protocol.errors import (
    CapameshError,
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LinkLost,
    LocalError,
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
from capamesh.router.balancing.attempt import Attempt
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.opinions import GRAY_S, MOST
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.balancing.purpose import Purpose
from capamesh.router.balancing.unhealthy import Ejected, Inhibited
from capamesh.router.fleet import latency_ewma as peak_ewma
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.replica import Replica
from capamesh.router.fleet.view import FleetView
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.resilience.health import CircuitState
from capamesh.router.resilience.retry_budget import RETRIES
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.rules.model_rules import ModelRules, RoutingRules

M, V1 = ModelName("m"), ModelVersion("1")
SHAPE = RequestShape(M, V1, 8)
LOAD = LoadReport(in_flight=3, limit=8, latency_us=10_000)


class World:
    """Nodes named by letters that replica m version 1, with their links up; `invites` are theirs, "." an unknown one."""

    def __init__(
        self, peers: str = "abc", rules: ModelRules | None = None, invites: str = ""
    ) -> None:
        by_peer = dict(zip(peers, invites.replace(".", " "), strict=False))
        self.endpoints: list[Endpoint] = []
        self.fleet = FleetView(on_new=self._new, on_gone=lambda _: None)
        self.balancer = Balancer(
            self.fleet,
            make_policy=lambda *_: InOrder(),
            rng=Draws(*[0.5] * 1000),
            rules=RoutingRules(rules or ModelRules()),
            invite_of=lambda peer: by_peer.get(peer, "").strip(),
        )
        self.fleet.apply([Joined(advert(peer, f"{peer}:1")) for peer in peers])
        self.served = self.balancer.served(M, V1)

    def _new(self, endpoint: Endpoint) -> None:
        endpoint.link = Usable()  # type: ignore[assignment]
        self.endpoints.append(endpoint)

    @property
    def replicas(self) -> tuple[Replica, ...]:
        return self.fleet.replicas(M, V1)

    def picker(self) -> RequestPicker:
        return RequestPicker(self.served, ANYWHERE, SHAPE)

    def sent(self, replica: Replica, now_s: float = 10.0) -> RequestPicker:
        picker = self.picker()
        picker.sent(replica, now_s)
        return picker


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


# what outcomes mean


CLOSED, INHIBITED = CircuitState.CLOSED, CircuitState.INHIBITED


@pytest.mark.parametrize(
    ("error", "blamed", "until_s", "failed"),
    [
        (Overloaded("full", 0.4), "replica", 10.4, 0),
        (Overloaded("full"), "replica", 10.05, 0),
        (Draining("bye"), "endpoint", 11.0, 0),
        (ModelUnavailable("loading"), "replica", 10.5, 0),
        (RunFailed("no memory"), "replica", 10.1, 1),
        (PeerError("odd"), "replica", 10.1, 1),
        *((each("?"), "endpoint", 15.0, 1) for each in (LinkLost, ProtocolViolation, NotMember)),
        *((each("?"), "", 10.0, 0) for each in (InvalidRequest, DeadlineExceeded, LocalError)),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_error_is_blamed_on_whom_it_concerns_for_as_long_as_it_matters(
    error: CapameshError, blamed: str, until_s: float, failed: int
) -> None:
    world = World("a")
    (replica,) = world.replicas
    world.sent(replica).failed(replica, error, 0.001, 10.0)
    for name, health in (("replica", replica.health), ("endpoint", replica.endpoint.health)):
        assert health.state(10.0) is (INHIBITED if name == blamed else CLOSED)
        if name == blamed:
            assert not health.may_send(until_s - 0.001)
            assert health.may_send(until_s + 0.001)
    assert replica.endpoint.failed == failed
    assert bool(world.served._unhealthy.noted) == bool(failed)
    assert (replica.rif, replica.endpoint.rif) == (0, 0)
    assert (peak_ewma.cost_s(replica, 10.0) == 5.0) == bool(failed)


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


def test_second_opinions_have_a_budget_of_their_own_that_time_refills() -> None:
    world = World("ab")
    first, second = world.replicas

    def opinions(tries: int, now_s: float) -> int:
        checks = (world.picker().cross_check(first, [first], now_s) for _ in range(tries))
        return sum(check is second for check in checks)

    # nothing is taken where nobody is left
    assert world.picker().cross_check(first, [first, second], 10.0) is None
    assert opinions(400, 10.0) == MOST
    assert sum(world.picker().try_retry(10.0) for _ in range(1000)) == RETRIES.reserve
    assert opinions(99, 15.0) == 5
    second.endpoint.health.failed(25.0, is_hard=True)
    assert opinions(1, 25.0) == 0  # it is not well
    unretried = World("ab", ModelRules(is_retried=False))
    assert unretried.picker().cross_check(first, [first], 10.0) is None


def test_replica_that_fails_most_of_what_others_answer_is_ejected_and_reported() -> None:
    world = World("abc")
    first = world.replicas[0]
    for replica in world.replicas[1:]:
        for _ in range(40):
            world.sent(replica).answered(replica, LOAD, 0.01, 0.0, 8, 10.0)
    for _ in range(40):
        world.sent(first).failed(first, RunFailed("no memory"), 0.001, 10.0)
    assert world.balancer.tick(10.0) == [
        Inhibited(PeerId("a"), "a:1", "m", "1", "run_failed: no memory")
    ]
    reported = world.balancer.tick(12.5)
    assert reported == [Ejected(PeerId("a"), "a:1", "m", "1", reported[0].reason)]
    assert reported[0].reason == "100% of 40 requests failed, 0% elsewhere"


def test_answer_of_who_is_gone_does_not_bring_it_back() -> None:
    world = World("ab")
    gone = world.replicas[0]
    picker = world.sent(gone)
    world.fleet.apply([Left(PeerId("a"), LeftReason.GOODBYE)])
    picker.answered(gone, LOAD, 0.1, 0.0, 8, 10.1)
    world.balancer.probe_answered(gone, LOAD, 0.001, 10.2)
    assert gone.is_gone
    assert gone.load == LoadReport()
    assert [replica.endpoint.peer for replica in world.replicas] == ["b"]
    assert gone.rif == gone.endpoint.rif == 0


def test_load_that_a_node_reports_with_a_refusal_is_taken_over() -> None:
    world = World("a")
    (replica,) = world.replicas
    refusal = Overloaded("full")
    refusal.load = [7, 3, 8, 20_000, 10_000, 0, 40_000, 7]
    world.sent(replica).failed(replica, refusal, 0.001, 10.0)
    assert (replica.load.in_flight, replica.load.limit, replica.load_s) == (7, 8, 10.0)


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
