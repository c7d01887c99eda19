"""The check of keys at the front: which route takes which key, and how a client sends it. IO: none but aiohttp's requests.

While no key was ever made, nothing is checked. From then on each request must bring a key that may do what its route takes,
but for the routes by which load balancers ask whether the router lives.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Final

from aiohttp import web

from capamesh.protocol.errors import Unauthenticated
from capamesh.router.access.keys import (
    OPERATOR,
    Key,
    KeyRing,
    Verb,
    check_model,
    check_scope,
    check_verb,
)
from capamesh.router.access.operator_key import KEY_FILE, SCHEME

if TYPE_CHECKING:
    from capamesh.router.access.operator_key import OperatorKey
    from capamesh.router.http.route import Route

AUTHORIZATION: Final = "Authorization"
API_KEY: Final = "X-API-Key"
CHALLENGED: Final = "WWW-Authenticate"
_COOKIE: Final = "capamesh_login"
_BY_LOGIN: Final = web.RequestKey("by_login", str)
"""The text of the login by which a request was let in."""
_READING: Final = frozenset({"GET", "HEAD"})
_KEY: Final = web.RequestKey("key", Key)


class KeyCheck:
    """The check of one front; the operator's key, where there is one, may do all."""

    def __init__(self, ring: KeyRing, operator: OperatorKey | None = None) -> None:
        self.ring = ring
        self._operator = operator
        self._logins = None if operator is None else operator.page_logins()

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

    def of_request(self, request: web.Request, route: Route | None) -> None:
        """Raise `Unauthenticated`, `Forbidden` or `KeysUnavailable` unless a request brings a key for its route; None: it has none."""
        if not self.ring.is_required or (route is not None and not route.verbs):
            return
        headers = request.headers
        key = self._logged_in(request, route) or self._find(
            headers.get(AUTHORIZATION, ""),
            headers.get(API_KEY, ""),
            takes_basic=request.method in _READING,
        )
        if route is not None:  # else there is nothing, as whoever has a key is told
            check_verb(key, *route.verbs)
            model = request.match_info.get("model")
            if model is not None and route.verbs == (Verb.ADMIN,):
                check_scope(key, model)
            elif model is not None and not (Verb.READ in route.verbs and key.may(Verb.READ)):
                check_model(key, model)
        request[_KEY] = key

    def login(self, text: str) -> str:
        """Return the text of a cookie that reads the page in the place of a key, which may be the operator's.

        Raises `Unauthenticated`, `Forbidden` or `KeysUnavailable`.
        """
        key = self._find(f"{SCHEME} {text}", "", takes_basic=False)
        check_verb(key, Verb.READ)
        if self._logins is None:
            raise Unauthenticated("this router takes no logins")
        return self._logins.text_of(key.id, self.ring.wall_s)

    def _logged_in(self, request: web.Request, route: Route | None) -> Key | None:
        """Return the key of a browser's login, where a request of one reads what a key with `read` may; None: there is no such login."""
        headers = request.headers
        if route is None or Verb.READ not in route.verbs or request.method not in _READING:
            return None
        if AUTHORIZATION in headers or API_KEY in headers:
            return None
        text = request.cookies.get(login_cookie(request.host), "")
        key = self._of_login(text)
        if key is not None and key.may(Verb.READ):
            request[_BY_LOGIN] = text
            return key
        return None

    def _of_login(self, text: str) -> Key | None:
        if not text or self._logins is None:
            return None
        key_id = self._logins.key_id(text, self.ring.wall_s)
        return OPERATOR if key_id == OPERATOR.id else self.ring.of_id(key_id)

    def commander(self, key: Key | None, authorization: str) -> str:
        """Return the name for the log of whoever commands the router: by the key that a route has let in, else by the operator's.

        Raises `Unauthenticated`: no key is asked for, and the operator's was not brought.
        """
        if key is not None and key is not OPERATOR:
            return key.id
        operator = self._operator
        if key is None and (operator is None or not operator.opens(authorization)):
            raise Unauthenticated(
                f"this takes the operator's key: send 'Authorization: {SCHEME} KEY' with the content of {KEY_FILE} in the"
                " router's data folder, which is new at each start, or a key with the verb admin"
            )
        return "operator"

    def is_still_taken(self, request: web.Request) -> bool:
        """Return whether the key of a request that lasts is still one."""
        if not self.ring.is_required:
            return True
        key, login = key_of(request), request.get(_BY_LOGIN, "")
        if login and self._of_login(login) is None:
            return False
        return key is not None and self._has(key)

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


def is_logged_in(request: web.Request) -> bool:
    """Return whether a request was let in by a browser's login."""
    return _BY_LOGIN in request


def login_cookie(host: str) -> str:
    """Return the name of the cookie of logins at a router that a browser asks by this `Host`: cookies know no ports."""
    port = host.rpartition(":")[2]
    return f"{_COOKIE}_{port}" if port.isdecimal() and port.isascii() else _COOKIE


def is_still_taken(request: web.Request) -> bool:
    """Return whether the key of a request that lasts is still one."""
    keys = request.app.get(KEYS)
    return keys is None or keys.is_still_taken(request)


def key_of(request: web.Request) -> Key | None:
    """Return the key that a request has brought; None: none was asked for."""
    return request.get(_KEY)


def _password(basic: str) -> str:
    try:
        return base64.b64decode(basic.strip(), validate=True).decode("ascii").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
