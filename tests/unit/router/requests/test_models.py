"""What is kept of a model from one request to the next."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.router.requests.models import RoutedModels
from capamesh.router.rules.model_rules import MirrorRule, ModelRules, RoutingRules

pytestmark = pytest.mark.pure

M, X = ModelName("m"), ModelName("x")
TO_2, TO_3 = (MirrorRule(ModelVersion(version), 0.5) for version in "23")


class World:
    """The models of a router whose fleet hosts those that the test names."""

    def __init__(self, **rules: MirrorRule | None) -> None:
        self.hosted = {"m"}
        fleet: Any = SimpleNamespace(versions_ready=lambda name: name in self.hosted)
        balancer: Any = None
        self.models = RoutedModels(fleet, balancer, of(**rules), rng=random.Random(0))


def of(**mirrors: MirrorRule | None) -> RoutingRules:
    models = {ModelName(name): ModelRules(mirror=rule) for name, rule in mirrors.items()}
    return RoutingRules(ModelRules(), models)


def test_model_is_kept_from_its_first_request_while_it_is_hosted() -> None:
    world = World()
    first = world.models.of(M)
    assert world.models.of(M) is first
    world.models.tick()
    assert world.models.of(M) is first
    world.hosted.clear()
    world.models.tick()
    assert len(world.models) == 0


def test_name_that_nobody_hosts_is_not_kept() -> None:
    world = World()
    assert world.models.of(X) is not world.models.of(X)
    assert len(world.models) == 0


def test_model_that_is_gone_is_kept_until_its_copies_have_ended() -> None:
    world = World(m=TO_2)
    model = world.models.of(M)
    assert model.mirror is not None
    model.mirror.began()
    world.hosted.clear()
    world.models.tick()
    assert (len(world.models), model.copies) == (1, 1)
    model.mirror.ended()
    world.models.tick()
    assert len(world.models) == 0


def test_mirror_goes_on_under_other_rules_that_leave_it_and_ends_under_those_that_do_not() -> None:
    world = World(m=TO_2)
    model = world.models.of(M)
    first, versions = model.mirror, model.versions
    world.models.take_rules(of(m=TO_2))
    assert model.mirror is first
    assert model.versions is not versions
    world.models.take_rules(of(m=TO_3))
    assert model.mirror is not None
    assert model.mirror.rule is TO_3
    world.models.take_rules(of())
    assert (model.mirror, model.copies) == (None, 0)
    world.models.take_rules(of(m=TO_2))
    assert model.mirror is not None
    assert world.models.of(M) is model
