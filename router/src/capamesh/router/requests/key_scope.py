"""The part of a request's options that its key decides: whose the request is, and which nodes may run it. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from capamesh.protocol.errors import Forbidden
from capamesh.router.access.keys import OPERATOR, check_tenant
from capamesh.router.rules.constraints import ANYWHERE, Constraints

if TYPE_CHECKING:
    from capamesh.protocol.adverts import NodeAdvert
    from capamesh.router.access.keys import Key
    from capamesh.router.requests.call import RoutingOptions


def within_scope(options: RoutingOptions, key: Key | None) -> RoutingOptions:
    """Return what a request asks for, as its key's tenant and at no other nodes than the key is for.

    The operator may name any tenant, as all may where no key is asked for; `key` is None there. Raises `Forbidden`.
    """
    if key is None or key is OPERATOR:
        return options
    check_tenant(key, options.tenant)
    constraints = constrained(options.constraints, key)
    return replace(options, tenant=key.tenant, constraints=constraints)


def constrained(asked: Constraints, key: Key | None) -> Constraints:
    """Return the constraints that meet those of a request and those of its key; None: no key is asked for.

    Raises `Forbidden`: the request names regions, and the key is for none of them.
    """
    allowed = _constraints_of(key)
    if (
        asked.regions is not None
        and allowed.regions is not None
        and asked.regions.isdisjoint(allowed.regions)
    ):
        raise Forbidden(
            f"the request names the regions {_shown(asked.regions)}, and the key is for {_shown(allowed.regions)}; name one of"
            " these, or none"
        )
    return asked.both(allowed)


def check_node(key: Key | None, advert: NodeAdvert | None) -> None:
    """Raise `Forbidden` unless a command with the key may be on the node; None: nobody hears of it."""
    allowed = _constraints_of(key)
    if allowed is ANYWHERE or (advert is not None and allowed.are_met_by(advert, "")):
        return
    raise Forbidden(
        "the key is for nodes of some regions or up to a price, and this is none of them; ask the router's operator for another"
    )


def _constraints_of(key: Key | None) -> Constraints:
    scope = None if key is None else key.scope
    if scope is None or (scope.max_price is None and not scope.regions):
        return ANYWHERE
    return Constraints(
        math.inf if scope.max_price is None else scope.max_price,
        frozenset(scope.regions) if scope.regions else None,
    )


def _shown(regions: frozenset[str]) -> str:
    return ", ".join(sorted(regions))[:200]
