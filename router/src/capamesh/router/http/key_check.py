"""The check of keys at the front: which route takes which key, and how a client sends it. IO: none but aiohttp's requests.

While no key was ever made, nothing is checked. From then on each request must bring a key that may do what it asks, but
for the two routes by which load balancers ask whether the router lives. A route that is not in the table takes an
admin's key, so that one that was forgotten is not open.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web

from capamesh.protocol.errors import Unauthenticated
from capamesh.router.access.keys import (
    OPERATOR,
    Key,
    KeyRing,
    Verb,
    check_model,
    check_tenant,
    check_verb,
)

if TYPE_CHECKING:
    from capamesh.router.access.operator_key import OperatorKey
    from capamesh.router.requests.call import RoutingOptions

AUTHORIZATION: Final = "Authorization"
API_KEY: Final = "X-API-Key"
CHALLENGED: Final = "WWW-Authenticate"
CHALLENGE_OF_BROWSERS: Final = 'Basic realm="capamesh"'
"""Has a browser ask for a name and a password, which is the key. It stands alone, for some read but one challenge (Chromium)."""
_MODEL_PAGES: Final = tuple(
    ("GET", f"/v2/models/{{model}}{version}{page}")
    for version in ("", "/versions/{version}")
    for page in ("", "/ready", "/config")
)
"""The pages of a model that a client asks for before it runs it."""
_SEEING: Final = (
    ("POST", "/v2/repository/index"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/{model}/stats"),
    ("GET", "/v2/models/{model}/versions/{version}/stats"),
    ("GET", "/"),
    ("GET", "/page/{digest}/{name}"),
    ("GET", "/v1/page/snapshot"),
    ("GET", "/v1/page/changes"),
    ("GET", "/v1/page/history"),
    ("GET", "/v1/nodes"),
    ("GET", "/v1/nodes/{peer}"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}/routing"),
    ("GET", "/v1/requests"),
    ("GET", "/v1/drains"),
)
OPEN: Final = frozenset({("GET", "/v2/health/live"), ("GET", "/v2/health/ready")})
"""The routes that need no key."""
NEEDS: Final[Mapping[tuple[str, str], tuple[Verb, ...]]] = {
    ("POST", "/v2/models/{model}/infer"): (Verb.INFER,),
    ("POST", "/v2/models/{model}/versions/{version}/infer"): (Verb.INFER,),
    **dict.fromkeys(_MODEL_PAGES, (Verb.INFER, Verb.READ)),
    **dict.fromkeys(_SEEING, (Verb.READ,)),
    ("GET", "/v2"): tuple(Verb),
    ("GET", "/metrics"): (Verb.METRICS,),
    ("POST", "/v1/revocations"): (Verb.ADMIN,),
    ("POST", "/v1/drains"): (Verb.ADMIN,),
    ("PUT", "/v1/nodes/{peer}/circuit"): (Verb.ADMIN,),
}
"""The verbs, one of which a key must have, by method and route."""
_KEY: Final = web.RequestKey("key", Key)


class KeyCheck:
    """The check of one front; the operator's key, where there is one, may do all."""

    def __init__(self, ring: KeyRing, operator: OperatorKey | None = None) -> None:
        self.ring = ring
        self._operator = operator

    def of_inference(self, model: str, authorization: str, api_key: str) -> Key | None:
        """Return the key of an inference request, by two of its headers, empty where it has them not; None: none is asked for.

        Raises `Unauthenticated`, `Forbidden` or `KeysUnavailable`.
        """
        if not self.ring.is_required:
            return None
        key = self._find(authorization, api_key, takes_basic=False)
        check_model(key, model)
        return key

    def of_call(self, verbs: tuple[Verb, ...], authorization: str, api_key: str) -> Key | None:
        """Return the key of a call that takes one of the `verbs`, none for an open one; None: none is asked for.

        Raises `Unauthenticated`, `Forbidden` or `KeysUnavailable`.
        """
        if not self.ring.is_required or not verbs:
            return None
        key = self._find(authorization, api_key, takes_basic=False)
        check_verb(key, *verbs)
        return key

    def of_request(self, request: web.Request) -> None:
        """Raise `Unauthenticated`, `Forbidden` or `KeysUnavailable` unless a request brings a key for its route."""
        if not self.ring.is_required:
            return
        method = "GET" if request.method == "HEAD" else request.method
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical
        place = (method, path.rstrip("/") or path)
        if place in OPEN:
            return
        headers = request.headers
        key = self._find(
            headers.get(AUTHORIZATION, ""), headers.get(API_KEY, ""), takes_basic=method == "GET"
        )
        if resource is not None:  # else there is nothing, as whoever has a key is told
            verbs = NEEDS.get(place, (Verb.ADMIN,))
            check_verb(key, *verbs)
            model = request.match_info.get("model")
            if model is not None and not (Verb.READ in verbs and key.may(Verb.READ)):
                check_model(key, model)
        request[_KEY] = key

    def is_still_taken(self, request: web.Request) -> bool:
        """Return whether the key of a request that lasts is still one."""
        key = key_of(request)
        return not self.ring.is_required or (key is not None and self._has(key))

    def _has(self, key: Key) -> bool:
        return key is OPERATOR or self.ring.has(key)

    def _find(self, authorization: str, api_key: str, *, takes_basic: bool) -> Key:
        """Return the key that the headers bring; raise `Unauthenticated` or `KeysUnavailable`."""
        operator = self._operator
        if operator is not None and authorization and operator.opens(authorization):
            return OPERATOR
        text = api_key.strip()
        scheme, _, given = authorization.strip().partition(" ")
        if not text and scheme.lower() == "bearer":
            text = given.strip()
        elif not text and scheme.lower() == "basic":
            if (
                not takes_basic
            ):  # a browser adds it by itself, also to what a page of somebody else sends
                raise Unauthenticated(
                    "a password is taken for reading alone; send the key as 'Authorization: Bearer cm_...'"
                )
            text = _password(given)
        return self.ring.find(text)


KEYS: Final = web.AppKey("keys", KeyCheck)
"""The application's key for its check; without it no key is asked for."""


def is_still_taken(request: web.Request) -> bool:
    """Return whether the key of a request that lasts is still one."""
    keys = request.app.get(KEYS)
    return keys is None or keys.is_still_taken(request)


def key_of(request: web.Request) -> Key | None:
    """Return the key that a request has brought; None: none was asked for."""
    return request.get(_KEY)


def with_tenant(options: RoutingOptions, key: Key | None) -> RoutingOptions:
    """Return what a request asks for, as its key's tenant; the operator may name any, as all may without keys. Raises `Forbidden`."""
    if key is None or key is OPERATOR:
        return options
    check_tenant(key, options.tenant)
    return replace(options, tenant=key.tenant)


def _password(basic: str) -> str:
    try:
        return base64.b64decode(basic.strip(), validate=True).decode("ascii").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
