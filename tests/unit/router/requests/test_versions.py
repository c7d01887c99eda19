"""Which requests are first sent to a version on trial, and to which."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from replicas import Draws

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.fleet.hosted_version import Ranking
from capamesh.router.requests.split import VersionSplit
from capamesh.router.requests.versions import TRIAL_SHARE, Versions

pytestmark = pytest.mark.pure

M, V1 = ModelName("m"), ModelVersion("1")
EVERY = round(1 / TRIAL_SHARE)


class World:
    """Version 1 is trusted; chance draws the numbers given."""

    def __init__(
        self, trials: str = "2", *draws: float, weights: Sequence[tuple[ModelVersion, float]] = ()
    ) -> None:
        ranking = Ranking(frozenset({V1}), V1, tuple(ModelVersion(each) for each in trials))
        fleet: Any = SimpleNamespace(rankings={M: ranking})
        self.made = {version: self._served(version) for version in "123"}
        balancer: Any = SimpleNamespace(served=lambda _, version: self.made[version])
        self.versions = Versions(
            M, VersionSplit(weights), fleet=fleet, balancer=balancer, rng=Draws(*draws)
        )

    def _served(self, version: str) -> Any:
        rules = SimpleNamespace(is_retried=True)
        return SimpleNamespace(version=version, rules=rules, may_repeat=lambda: True)

    def tried(self, requests: int) -> list[tuple[int, str]]:
        """Send requests for version 1; return which of them, from 1, are tried, and of which version."""
        found: list[tuple[int, str]] = []
        for number in range(1, requests + 1):
            served = self.versions.trial(self.made["1"])
            if served is not None:
                found.append((number, served.version))
        return found


def test_one_request_in_a_hundred_is_sent_on_trial() -> None:
    assert World("2", 0.0, 0.0).tried(2 * EVERY + 1) == [(EVERY, "2"), (2 * EVERY, "2")]


def test_request_that_is_not_retried_leaves_the_trial_to_the_next_that_is() -> None:
    world = World("2", 0.0)
    world.made["1"].rules.is_retried = False
    assert world.tried(EVERY + 5) == []
    world.made["1"].rules.is_retried = True
    assert world.tried(EVERY - 1) == [(1, "2")]


@pytest.mark.parametrize("unsafe", ["1", "2"])
def test_trial_of_what_must_not_run_twice_is_lost(unsafe: str) -> None:
    world = World("2", 0.0, 0.0)
    world.made[unsafe].may_repeat = lambda: False
    assert world.tried(EVERY) == []
    world.made[unsafe].may_repeat = lambda: True
    assert world.tried(EVERY) == [(EVERY, "2")]
