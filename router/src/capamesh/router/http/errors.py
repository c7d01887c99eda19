"""Errors as HTTP: the one place where codes become statuses. Pure but for building responses."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Final

from aiohttp import web

from capamesh.protocol.errors import (
    AdvertRejected,
    Cancelled,
    CapameshError,
    ClientError,
    DeadlineExceeded,
    Draining,
    FileConflict,
    FileNotFound,
    Forbidden,
    InputChanged,
    InvalidRequest,
    JobConflict,
    JobNotFound,
    JobsUnavailable,
    KeysUnavailable,
    KeyUsed,
    LinkLost,
    ModelFailed,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    NotMember,
    OutputFailed,
    Overloaded,
    PlaceUnavailable,
    ProtocolViolation,
    RunFailed,
    SequenceLost,
    ShutOut,
    StorageFull,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unsatisfiable,
    Unsupported,
)
from capamesh.protocol.oip import error_body
from capamesh.router.http.replies import JSON, Reply

CHALLENGE = "Bearer"
"""Tells how to send a key."""

STATUS: dict[type[CapameshError], int] = {
    InvalidRequest: 400,
    ClientError: 400,
    Unauthenticated: 401,
    NotMember: 403,
    Forbidden: 403,
    AdvertRejected: 400,
    FileNotFound: 404,
    JobNotFound: 404,
    ModelNotFound: 404,
    FileConflict: 409,
    InputChanged: 409,
    JobConflict: 409,
    KeyUsed: 409,
    SequenceLost: 410,
    TooLarge: 413,
    TooManyRequests: 429,
    Cancelled: 499,
    RunFailed: 500,
    Unsupported: 501,
    LinkLost: 502,
    ProtocolViolation: 502,
    Draining: 503,
    JobsUnavailable: 503,
    KeysUnavailable: 503,
    ModelUnavailable: 503,
    NoEndpoint: 503,
    OutputFailed: 503,
    Overloaded: 503,
    PlaceUnavailable: 503,
    DeadlineExceeded: 504,
    StorageFull: 507,
}
"""499 is nginx's status for a client that closed its request; nobody reads it."""

CODE: Final = "X-Capamesh-Error"
"""The header with the code of a refusal."""
RETRY_AFTER_S = 1
"""The least that the header can say, and what is said where nobody knows more: nodes that drain or load a model are
avoided for so long at most."""


_HEALTH: Final = "GET /v2/health/ready says whether a model can be asked, GET /v2/health/live whether this router lives"
MEANT: Final = {
    "/v2/models": "GET /v1/models lists the models, POST /v2/repository/index their versions",
    **dict.fromkeys(("/health", "/healthz", "/livez", "/ready", "/readyz", "/v2/health"), _HEALTH),
}
"""What is at another path than clients of other servers ask."""


def code_of(status: int) -> str:
    """Return the code of a refusal that HTTP has a status for, and this protocol no error, such as `method_not_allowed`."""
    return HTTPStatus(status).name.lower()


def status_of(error: CapameshError) -> int:
    """Return the HTTP status of an error: that of its nearest class, else 500."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def error_reply(error: CapameshError) -> Reply:
    """Return an error as the protocol's body."""
    headers = {"Content-Type": JSON, CODE: error.code}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = CHALLENGE
    retry_s = retry_after_s(error)
    if retry_s is not None:
        headers["Retry-After"] = str(retry_s)
    return Reply(status_of(error), headers, (error_body(error.message, error.code),))


def retry_after_s(error: CapameshError) -> int | None:
    """Return the whole seconds after which to come again; None where waiting alone does not help."""
    match error:
        case Unsatisfiable() | ModelFailed() | ShutOut():
            return None
        case (
            Overloaded(retry_after_s=hint_s)
            | NoEndpoint(retry_after_s=hint_s)
            | ModelUnavailable(retry_after_s=hint_s)
        ):
            return max(RETRY_AFTER_S, math.ceil(hint_s))
        case (
            Draining() | PlaceUnavailable() | JobsUnavailable() | KeysUnavailable() | OutputFailed()
        ):
            return RETRY_AFTER_S
        case _:
            return None


def response_of(reply: Reply) -> web.Response:
    """Return a reply for aiohttp to write."""
    buffers = reply.buffers
    whole = buffers[0] if len(buffers) == 1 else b"".join(buffers)
    return web.Response(status=reply.status, headers=reply.headers, body=whole)


def error_response(error: CapameshError) -> web.Response:
    """Return an error for aiohttp to write."""
    return response_of(error_reply(error))


def http_error_response(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return aiohttp's own refusal (no such route, wrong method) in the protocol's form."""
    headers: dict[str, str] = {}
    match error:
        case web.HTTPMethodNotAllowed():
            headers["Allow"] = ", ".join(sorted(error.allowed_methods))
            message = f"{request.path} takes {headers['Allow']}, not {request.method}"
        case web.HTTPNotFound():
            meant = MEANT.get(request.path.rstrip("/"), "GET / lists all routes")
            message = f"there is nothing at {request.path}; {meant}"
        case _:
            message = error.text or error.reason
    if "Content-Range" in error.headers:  # says how long the file is of which a range was asked for
        headers["Content-Range"] = error.headers["Content-Range"]
    return web.Response(
        status=error.status,
        body=error_body(message, code_of(error.status)),
        content_type="application/json",
        headers=headers,
    )


def too_slow_text(
    what: str, received_bytes: int, announced_bytes: int | None, limit_s: float
) -> str:
    """Return what to tell a client whose request does not arrive."""
    announced = "" if announced_bytes is None else f" of {announced_bytes}"
    return (
        f"{received_bytes}{announced} bytes of {what} came within {limit_s:g} s, the limit; send it faster or in"
        " smaller requests, or give the router a longer --arrival"
    )
