"""The HTTP application: all routes behind one translation of errors. IO: aiohttp."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aiohttp import web

from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LocalError,
    TooLarge,
)
from capamesh.protocol.oip import HEADER_LENGTH_NAME
from capamesh.router.access.audience import Audience
from capamesh.router.access.keys import Verb
from capamesh.router.access.origin_check import OriginCheck
from capamesh.router.http.bodies import BUDGET, release
from capamesh.router.http.cross_origin import (
    check_origin,
    is_preflight,
    let_pages_read,
    preflight_answer,
)
from capamesh.router.http.errors import error_response, http_error_response
from capamesh.router.http.key_check import CHALLENGED, KEYS, KeyCheck, key_of
from capamesh.router.http.login_page import is_asked_for, login_page
from capamesh.router.http.media_types import is_json
from capamesh.router.http.openai_errors import openai_error, openai_http_error
from capamesh.router.http.route import TABLE, Handler, Pages, Route, RouteTable
from capamesh.router.telemetry import HTTP
from capamesh.router.telemetry.request_lines import Facts

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.tensors import Limits
    from capamesh.router.http.body_budget import BodyBudget
    from capamesh.router.http.open_requests import OpenRequests
    from capamesh.router.telemetry.request_lines import AccessLog

_VERSION = "/versions/{version}"
_BEFORE_IT_IS_READ = frozenset({401, 403, 408, 413, 415})
"""The statuses of inference requests that are refused before they are read."""


def make_application(
    *pages: Pages,
    limits: Limits,
    log: FilteringBoundLogger,
    requests: OpenRequests,
    budget: BodyBudget | None = None,
    keys: KeyCheck | None = None,
    access: AccessLog | None = None,
    audience: Audience = Audience.ALL,
    origin_check: OriginCheck,
) -> web.Application:
    """Return the application that a router serves: all `pages`, of which what is not for the `audience` is refused.

    It counts its open `requests`; their bodies are within the `budget`, and they bring a key that the `keys` take: the front
    makes both. None: nothing is bounded, or no key is asked for. `access` is the log of a share of all requests; None: there is none.
    """
    table = RouteTable(route for part in pages for route in part.routes())
    check = _Check(table, limits, audience, origin_check, keys)

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_openai = table.is_openai(request)
        told = openai_error if is_openai else error_response
        if is_preflight(origin_check, request):
            return preflight_answer()
        try:
            check(request)
            return await handler(request)
        except web.HTTPException as error:
            return (openai_http_error if is_openai else http_error_response)(request, error)
        except web.RequestPayloadError as exc:  # its chunks are broken
            return told(InvalidRequest(f"the request's body cannot be decoded: {exc}"))
        except (
            CapameshError
        ) as error:  # kept in no name: its traceback holds this frame and the body
            return told(error)
        except Exception:
            log.exception("request_crashed", path=request.path)
            return told(LocalError("the router failed on this request; see its log"))

    @web.middleware
    async def count_and_translate(request: web.Request, handler: Handler) -> web.StreamResponse:
        requests.count += 1
        began_s = time.monotonic()
        try:
            response = await answer(request, handler)
        finally:
            release(request)
            requests.ended()
        route = table.of(request)
        place = "" if route is None else route.path.replace(f"{_VERSION}/infer", "/infer")
        requests.count_served(request.method, place, response.status)
        if access is not None and not _writes_itself(route, response.status) and access.wants():
            key = key_of(request)
            facts = Facts(
                HTTP,
                request.remote or "",
                "" if key is None else key.tenant,
                "" if key is None else key.id,
            )
            access.page(request.method, place, response.status, began_s, facts)
        if CHALLENGED in response.headers and is_asked_for(request):
            response = login_page(request, response)
        if requests.is_closing:
            response.force_close()
        return response

    application = web.Application(
        middlewares=[count_and_translate], client_max_size=limits.max_message_bytes
    )
    if budget is not None:
        application[BUDGET] = budget
    if keys is not None:
        application[KEYS] = keys
    let_pages_read(application, origin_check)
    application[TABLE] = table
    application.add_routes(table.definitions())
    return application


class _Check:
    """Raises an error of the protocol unless a request is for here, from somebody who may, and of a size and type that is taken.

    All of it is known of the head: no body is read.
    """

    def __init__(
        self,
        table: RouteTable,
        limits: Limits,
        audience: Audience,
        origin_check: OriginCheck,
        keys: KeyCheck | None,
    ) -> None:
        self._table = table
        self._most_bytes = limits.max_message_bytes
        self._audience = audience
        self._origin_check = origin_check
        self._keys = keys

    def __call__(self, request: web.Request) -> None:
        check_origin(self._origin_check, request)
        route = self._table.of(request)
        if route is not None and not self._audience.is_served(route.verbs):
            raise self._audience.refusal()
        if self._keys is not None:
            self._keys.of_request(request, route)
        if route is not None and route.takes_json:
            _check_type(request)
        is_streamed = route is not None and route.is_streamed
        if not is_streamed and (request.content_length or 0) > self._most_bytes:
            raise TooLarge(
                f"the request's body is over the limit of {self._most_bytes} bytes: ask for fewer rows at once, or give"
                " the router a larger --max-message-mib"
            )


def _check_type(request: web.Request) -> None:
    """Raise aiohttp's 415 for a body that a route takes for JSON, and that says it is none."""
    given = request.headers.get("Content-Type", "")
    if is_json(given) or HEADER_LENGTH_NAME in request.headers or not request.can_read_body:
        return
    raise web.HTTPUnsupportedMediaType(
        text=f"Content-Type is {given[:80]!r}, and the body is to be JSON: send 'Content-Type: application/json'"
    )


def _writes_itself(route: Route | None, status: int) -> bool:
    """Return whether a request that was answered so is one for inference, which is written to the access log where it ends."""
    is_inference = route is not None and route.method == "POST" and Verb.INFER in route.verbs
    return is_inference and status not in _BEFORE_IT_IS_READ
