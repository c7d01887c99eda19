"""What is remembered of who may run a request twice, and for how long."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from replicas import fleet

from capamesh.router.fleet.replica import Replica
from capamesh.router.requests.idempotency import OFFERS_AGE_S, Idempotency

pytestmark = pytest.mark.pure


class World:
    """Replicas of models, and a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 5.0
        self.idempotency = Idempotency(lambda: self.now_s)

    def holds(self, replicas: tuple[Replica, ...], model: str = "m", at_s: float = 5.0) -> bool:
        self.now_s = at_s
        served: Any = SimpleNamespace(
            model=model,
            version="1",
            hosted=SimpleNamespace(replicas=replicas),
            may_repeat=lambda: all(each.offer.is_idempotent for each in replicas),
        )
        return self.idempotency.holds(served)


def says(one: Replica, *, is_idempotent: bool) -> None:
    one.offer = replace(one.offer, is_idempotent=is_idempotent)


@pytest.mark.parametrize(
    ("at_s", "is_read_again"),
    [
        (5.0, False),
        (5.0 + OFFERS_AGE_S - 0.01, False),
        (5.0 + OFFERS_AGE_S, True),
        (4.99, True),  # a clock that was set back
    ],
)
def test_offers_of_the_same_replicas_are_read_again_after_a_second(
    at_s: float, is_read_again: bool
) -> None:
    world, replicas = World(), fleet("ab")
    assert world.holds(replicas)
    says(replicas[0], is_idempotent=False)
    assert world.holds(replicas, at_s=at_s) is not is_read_again


def test_models_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capamesh.router.requests.idempotency.MAX_OFFERS", 2)
    world, replicas = World(), fleet("a")
    for model in ("m", "n"):
        assert world.holds(replicas, model)
    assert world.holds(replicas, "m", 9.0)  # it is read again in its own place
    says(replicas[0], is_idempotent=False)
    assert world.holds(replicas, "m", 9.0)
    assert not world.holds(replicas, "o", 9.0)
    assert not world.holds(replicas, "m", 9.0)  # the others were forgotten for it
