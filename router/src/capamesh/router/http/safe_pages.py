"""The pages that browsers show, with the headers that bound what they may do. IO: none but aiohttp's responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

SAFE: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""The page loads nothing from elsewhere, runs no script that is written into it, and is shown in nobody's frame."""


def html_page(body: bytes, headers: Mapping[str, str]) -> web.Response:
    """Return a page of HTML as an answer, with `headers` beside the safe ones."""
    return web.Response(
        body=body, content_type="text/html", charset="utf-8", headers={**headers, **SAFE}
    )
