"""Which candidate gets a request: the seam, and the policies by name. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

from capamesh.protocol.errors import ConfigError
from capamesh.router.policies.p2c import PowerOfTwo
from capamesh.router.policies.seam import Loaded, Policy, RequestShape

POLICIES: dict[str, Callable[[random.Random], Policy]] = {PowerOfTwo.name: PowerOfTwo}

__all__ = ["POLICIES", "Loaded", "Policy", "PowerOfTwo", "RequestShape", "make_policy"]


def make_policy(name: str, chance: random.Random) -> Policy:
    """Return a new policy; raise `ConfigError` naming those there are."""
    try:
        return POLICIES[name](chance)
    except KeyError as exc:
        raise ConfigError(
            f"policy {name!r} is unknown; known: {', '.join(sorted(POLICIES))}"
        ) from exc
