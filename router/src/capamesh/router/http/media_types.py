"""The types of bodies that are read as JSON. IO: none but aiohttp's requests."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from capamesh.protocol.oip import HEADER_LENGTH_NAME

_JSON: Final = frozenset({"", "application/json", "application/octet-stream"})
"""A body of no type is any bytes (RFC 9110, section 8.3)."""
FORM: Final = "application/x-www-form-urlencoded"
"""The type that curl's `-d` names by itself, and the examples of Triton and Ollama with it. A page's form cannot write JSON in it,
and its script says whose page it is."""


def is_json(content_type: str) -> bool:
    """Return whether a body of this `Content-Type`, empty where there is none, may be JSON.

    Types that a form of a stranger's page can have without a question to the router before it are not, but for `FORM`.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    is_named = media_type.startswith("application/") and media_type.endswith("+json")
    return media_type in _JSON or media_type == FORM or is_named


def check_type(request: web.Request) -> None:
    """Raise aiohttp's 415 for a body that a route takes for JSON, and that says it is none."""
    given = request.headers.get("Content-Type", "")
    if is_json(given) or HEADER_LENGTH_NAME in request.headers or not request.can_read_body:
        return
    raise web.HTTPUnsupportedMediaType(
        text=f"Content-Type is {given[:80]!r}, and the body is to be JSON: send 'Content-Type: application/json'"
    )
