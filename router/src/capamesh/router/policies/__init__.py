"""The policies, by name, that choose which replica gets a request. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

from capamesh.protocol.errors import ConfigError
from capamesh.router.policies.affinity import Affinity
from capamesh.router.policies.cheapest import Cheapest
from capamesh.router.policies.least_request import LeastRequest
from capamesh.router.policies.p2c import PowerOfTwo
from capamesh.router.policies.peak_ewma import PeakEwma
from capamesh.router.policies.policy import IsEligible, Policy
from capamesh.router.policies.prefix_aware import PrefixAware
from capamesh.router.policies.prequal.policy import Prequal
from capamesh.router.policies.random_choice import RandomChoice
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.policies.round_robin import RoundRobin
from capamesh.router.rules.model_rules import DEFAULT_POLICY

POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    Prequal.name: Prequal,
    PowerOfTwo.name: PowerOfTwo,
    LeastRequest.name: LeastRequest,
    PeakEwma.name: PeakEwma,
    RoundRobin.name: RoundRobin,
    RandomChoice.name: RandomChoice,
    Cheapest.name: Cheapest,
    Affinity.name: Affinity,
    PrefixAware.name: PrefixAware,
}

__all__ = [
    "DEFAULT_POLICY",
    "POLICIES",
    "IsEligible",
    "Policy",
    "RequestShape",
    "make_policy",
]


def make_policy(name: str, rng: random.Random) -> Policy:
    """Return a new policy for one model; raise `ConfigError` naming those there are."""
    make = POLICIES.get(name)
    if make is None:
        raise ConfigError(f"policy {name!r} is unknown; known: {', '.join(sorted(POLICIES))}")
    return make(rng)
