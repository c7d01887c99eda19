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
