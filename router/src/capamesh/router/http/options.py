"""Reads what a request's X-Capamesh headers ask of its way. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.ids import PeerId
from capamesh.router.policies import POLICIES
from capamesh.router.requests.call import NO_OPTIONS, RoutingOptions
from capamesh.router.rules.constraints import ANYWHERE, Constraints

PREFIX: Final = "x-capamesh-"
POLICY: Final = "X-Capamesh-Policy"
AFFINITY: Final = "X-Capamesh-Affinity"
TENANT: Final = "X-Capamesh-Tenant"
MAX_PRICE: Final = "X-Capamesh-Max-Price"
REGION: Final = "X-Capamesh-Region"
DEVICE: Final = "X-Capamesh-Device"
NODES: Final = "X-Capamesh-Nodes"
EXPLAIN: Final = "X-Capamesh-Explain"
CACHE_CONTROL: Final = "Cache-Control"
"""HTTP's own header, of which `no-cache`, `no-store` and `max-age` are read."""
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
"""The header by which a client names a request, so that it is run once however often it is sent."""
MAX_IDEMPOTENCY_CHARS: Final = 255
"""The most characters of such a key (as Stripe's)."""
_NAMES: Final = {
    name.lower(): name
    for name in (POLICY, AFFINITY, TENANT, MAX_PRICE, REGION, DEVICE, NODES, EXPLAIN)
}
"""The headers that are read, by their names in small letters."""
_PARAMETERS: Final = {
    "timeout": "timeout, in microseconds",
    "deadline": "timeout, in microseconds",
    "priority": "priority",
    "sequence": "sequence_id",
}
"""The parameters of a request that are taken for headers, by what stands in the names of these."""
MAX_CHARS: Final = 1024
"""The most characters of one of these headers' values (guess: a dozen node ids)."""
MAX_NAMES: Final = 64
_SECONDS: Final = re.compile(r"[0-9]{1,9}\Z", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?\Z|\.[0-9]+\Z", re.ASCII)


def options_of(headers: Mapping[str, str]) -> tuple[RoutingOptions, bool]:
    """Return what the headers ask for, and whether the request is to be explained.

    `headers` finds names whatever their case. Raises `InvalidRequest`.
    """
    named = [name for name in headers if name[:11].lower() == PREFIX]
    control = headers.get(CACHE_CONTROL, "")
    if not named and not control:
        return NO_OPTIONS, False  # nearly all requests
    for name in named:
        if name.lower() not in _NAMES:
            raise InvalidRequest(f"there is no header {name[:80]!r}; {_nearest(name.lower())}")
    policy = _text(headers, POLICY)
    if policy and policy not in POLICIES:
        raise InvalidRequest(
            f"{POLICY} is {policy[:80]!r}; the policies are {', '.join(sorted(POLICIES))}"
        )
    max_age_s, may_be_kept = _kept(control)
    options = RoutingOptions(
        _constraints(headers),
        policy,
        _text(headers, AFFINITY),
        _text(headers, TENANT),
        max_age_s,
        may_be_kept,
    )
    return (NO_OPTIONS if options == NO_OPTIONS else options), _flag(headers, EXPLAIN)


def idempotency_key_of(headers: Mapping[str, str]) -> str:
    """Return the key that names a request, "" where it has none. Raises `InvalidRequest`."""
    key = headers.get(IDEMPOTENCY_KEY, "").strip()
    if len(key) > MAX_IDEMPOTENCY_CHARS or not (key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"{IDEMPOTENCY_KEY} is {key[:80]!r} of {len(key)} characters; at most {MAX_IDEMPOTENCY_CHARS} of printable ASCII are"
            " expected"
        )
    return key


def _kept(control: str) -> tuple[float, bool]:
    """Return how old, in seconds, a kept answer may be, and whether one may be kept; what is unknown counts for nothing (RFC 9111)."""
    max_age_s, may_be_kept = math.inf, True
    for directive in control.lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name == "no-cache":
            max_age_s = 0.0
        elif name == "no-store":
            may_be_kept = False
        elif name == "max-age":
            is_number = _SECONDS.match(value) is not None
            max_age_s = min(max_age_s, float(value) if is_number else 0.0)
    return max_age_s, may_be_kept


def _nearest(name: str) -> str:
    """Return what whoever named an unknown header may have meant, for an error's text."""
    for word, parameter in _PARAMETERS.items():
        if word in name:
            return f"it is a parameter of the request, in its JSON: {parameter}"
    close = get_close_matches(name[:80], _NAMES, n=1)
    if close:
        return f"did you mean {_NAMES[close[0]]}?"
    return f"there are {', '.join(sorted(_NAMES.values()))}"


def _constraints(headers: Mapping[str, str]) -> Constraints:
    nodes = _names(headers, NODES)
    constraints = Constraints(
        _price(headers),
        _names(headers, REGION),
        _names(headers, DEVICE),
        None if nodes is None else frozenset(map(PeerId, nodes)),
    )
    return ANYWHERE if constraints == ANYWHERE else constraints


def _text(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "").strip()
    if len(value) > MAX_CHARS:
        raise InvalidRequest(
            f"{name} is {value[:80]!r}… of {len(value)} characters; at most {MAX_CHARS} are expected"
        )
    return value


def _names(headers: Mapping[str, str], name: str) -> frozenset[str] | None:
    value = _text(headers, name)
    if not value:
        return None
    names = frozenset(part.strip() for part in value.split(",") if part.strip())
    if not 0 < len(names) <= MAX_NAMES:
        raise InvalidRequest(
            f"{name} is {value[:80]!r}; 1 to {MAX_NAMES} names, with commas between, are expected"
        )
    return names


def _price(headers: Mapping[str, str]) -> float:
    value = _text(headers, MAX_PRICE)
    if not value:
        return math.inf
    # `float` alone also reads 1_000, the digits of other scripts, nan and inf
    price = float(value) if _NUMBER.match(value) else math.nan
    if not 0 <= price < math.inf:
        raise InvalidRequest(
            f"{MAX_PRICE} is {value[:80]!r}; a number from 0 is expected, for a million rows"
        )
    return price


def _flag(headers: Mapping[str, str], name: str) -> bool:
    value = _text(headers, name).lower()
    if value in {"1", "true"}:
        return True
    if value in {"", "0", "false"}:
        return False
    raise InvalidRequest(f"{name} is {value[:80]!r}; 1 or 0 is expected")
