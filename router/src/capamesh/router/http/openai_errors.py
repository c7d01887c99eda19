"""Errors in the form that OpenAI's clients read, for the routes that are OpenAI's. Pure but for building responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from aiohttp import web

from capamesh.protocol.errors import CapameshError, ContextExceeded
from capamesh.router.http.errors import error_reply, http_error_response, response_of
from capamesh.router.http.replies import Reply
from capamesh.router.requests.invalid_parameter import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Mapping

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""The types of errors by their statuses; others are the caller's or the server's."""


def openai_error(error: CapameshError) -> web.Response:
    """Return an error for aiohttp to write: status and headers are those of all routes, but for a prompt that is too long."""
    reply = error_reply(error)
    status = _status(error, reply.status)
    return response_of(Reply(status, reply.headers, (_error_body(error, status),)))


def openai_http_error(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return aiohttp's own refusal (a wrong method, a body that does not arrive) in that form."""
    told = http_error_response(request, error)
    said: Mapping[str, str] = json.loads(told.body or b"{}")  # type: ignore[arg-type]
    told.body = _body(told.status, said["error"], said.get("code"), None)
    return told


def error_event(error: CapameshError) -> bytes:
    """Return an error that ends a stream of events, as its last event."""
    return b"data: %b\n\n" % _error_body(error, _status(error, error_reply(error).status))


def _status(error: CapameshError, status: int) -> int:
    """Return the status of an error that has `status` elsewhere: OpenAI's clients know a prompt that is too long by 400 and its code."""
    return 400 if isinstance(error, ContextExceeded) else status


def _error_body(error: CapameshError, status: int) -> bytes:
    param = error.param if isinstance(error, InvalidParameter | ContextExceeded) else None
    return _body(status, error.message, error.code, param)


def _body(status: int, message: str, code: str | None, param: str | None) -> bytes:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json.dumps({"error": error}).encode()
