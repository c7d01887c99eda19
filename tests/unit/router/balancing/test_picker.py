"""The rules that a request's picker gives to other versions and to a version on trial: the time and the draw of the choice."""

from __future__ import annotations

import random

import pytest
from fleet_fakes import InOrder, advert, offer
from replicas import Draws, Usable

from capamesh.protocol.fleet import Joined
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import LoadReport
from capamesh.router.balancing.balancer import Balancer
from capamesh.router.balancing.eligibility import Eligibility
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.balancing.picking import OtherVersions
from capamesh.router.balancing.purpose import Purpose
from capamesh.router.balancing.served_model import ServedModel
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.view import FleetView
from capamesh.router.policies import Policy, RequestShape
from capamesh.router.resilience.health import INHIBITED_S, RAMP_S
from capamesh.router.rules.constraints import ANYWHERE
from capamesh.router.rules.model_rules import NO_RULES

M = ModelName("m")
V1, V2 = ModelVersion("1"), ModelVersion("2")
SHAPE = RequestShape(M, V1, 8)
RAMPING_S = 10.0 + INHIBITED_S + RAMP_S / 2
"""A time at which a replica that failed at 10 s gets half of its requests."""


def linked(endpoint: Endpoint) -> None:
    endpoint.link = Usable()  # type: ignore[assignment]


def made(name: str, rng: random.Random) -> Policy:
    del name, rng
    return InOrder()


def served_by(draw: float) -> tuple[ServedModel, ServedModel]:
    """Return version 1, which node a hosts, and version 2 of node b; chance always draws the same number."""
    fleet = FleetView(on_new=linked, on_gone=lambda _: None)
    balancer = Balancer(fleet, make_policy=made, rng=Draws(*[draw] * 9), rules=NO_RULES)
    for peer, version in (("a", "1"), ("b", "2")):
        fleet.apply([Joined(advert(peer, f"{peer}:1", models=[offer(version=version)]))])
    return balancer.served(M, V1), balancer.served(M, V2)


class Recorded(OtherVersions):
    """Stays with the version that there is, and keeps the rules that it was asked by."""

    def __init__(self) -> None:
        self.rules: list[Eligibility] = []

    def open_from(
        self, served: ServedModel, rules: Eligibility, key: str, *, is_second: bool = False
    ) -> ServedModel:
        assert (key, is_second) == ("", True)
        self.rules.append(rules)
        return served

    def served_models(self) -> list[ServedModel]:
        return []


def test_change_of_version_goes_by_the_draw_and_the_time_of_its_choice() -> None:
    served, _ = served_by(0.25)
    versions = Recorded()
    picker = RequestPicker(served, ANYWHERE, SHAPE, 99.0, versions=versions)
    assert picker.choose((), 10.0, Purpose.RETRY).endpoint.peer == "a"
    (rules,) = versions.rules
    assert (rules.draw, rules.now_s, rules.deadline_s) == (0.25, 10.0, 99.0)


@pytest.mark.parametrize(("draw", "peer"), [(0.4, "b"), (0.6, "a")])
def test_replica_on_trial_that_recovers_is_tried_by_the_draw(draw: float, peer: str) -> None:
    served, trial = served_by(draw)
    trial.replicas[0].health.failed(10.0, is_hard=True, cause="a test")
    picker = RequestPicker(served, ANYWHERE, SHAPE, 99.0, trial=trial)
    assert picker.choose((), RAMPING_S).endpoint.peer == peer


def test_replica_on_trial_is_waited_for_as_long_as_one_of_the_trusted_version() -> None:
    served, trial = served_by(0.5)
    for model, latency_us in ((served, 100_000), (trial, 900_000)):
        model.replicas[0].reported(LoadReport(latency_us=latency_us), 10.0)
        for _ in range(50):
            model.window.add(0.1, 10.0)
    picker = RequestPicker(served, ANYWHERE, SHAPE, 99.0, trial=trial)
    tried = picker.choose((), 10.0)
    assert tried is trial.replicas[0]
    limit_s = picker.first_byte_limit_s(tried, 60.0, 10.0)
    assert limit_s == picker.first_byte_limit_s(served.replicas[0], 60.0, 10.0)
    own_word = RequestPicker(trial, ANYWHERE, SHAPE, 99.0).first_byte_limit_s(tried, 60.0, 10.0)
    assert limit_s < own_word


def test_answer_of_the_moment_at_which_a_request_was_sent_is_none_since_then() -> None:
    served, _ = served_by(0.5)
    (replica,) = served.replicas
    replica.answered_s = 10.0
    picker = RequestPicker(served, ANYWHERE, SHAPE, 99.0)
    assert picker.has_answered(replica, 9.9)
    assert not picker.has_answered(replica, 10.0)
