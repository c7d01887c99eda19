"""Requests of pages: their origin is checked, and those of `--allow-origin` may read the answers (CORS). IO: none but aiohttp's.

https://fetch.spec.whatwg.org/#http-cors-protocol has the words. Pages bring keys in headers and never cookies, so that no answer
allows credentials, and `*` stands for all headers but `Authorization`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from capamesh.router.access.origin_check import OriginCheck

ORIGIN: Final = "Origin"
ALLOWED: Final = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "600",
}
"""The answer to a browser that asks before it sends; it may ask again after ten minutes (guess)."""
_WANTED: Final = "Access-Control-Request-Method"
_VISIT: Final = ("navigate", "document")


def check_origin(check: OriginCheck, request: web.Request) -> None:
    """Raise `Forbidden` for what a stranger's page may have sent."""
    headers = request.headers
    check.check(
        request.method,
        ", ".join(headers.getall("Host", ())),
        origin=headers.get(ORIGIN, ""),
        fetch_site=headers.get("Sec-Fetch-Site", ""),
        is_visit=(headers.get("Sec-Fetch-Mode"), headers.get("Sec-Fetch-Dest")) == _VISIT,
    )


def is_preflight(check: OriginCheck, request: web.Request) -> bool:
    """Return whether a browser asks by it what a page of an allowed origin may send."""
    return (
        request.method == "OPTIONS"
        and _WANTED in request.headers
        and request.headers.get(ORIGIN, "") in check.origins
    )


def preflight_answer() -> web.Response:
    """Return the answer to a browser that asks so."""
    return web.Response(status=204, headers=ALLOWED)


def let_pages_read(application: web.Application, check: OriginCheck) -> None:
    """Have browsers give each answer, whatever it is, to pages of an allowed origin."""

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        headers, origin = response.headers, request.headers.get(ORIGIN, "")
        headers["Vary"] = f"{headers['Vary']}, {ORIGIN}" if "Vary" in headers else ORIGIN
        if origin in check.origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = "*"

    if check.origins:
        application.on_response_prepare.append(mark)
