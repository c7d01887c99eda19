"""The description of the routes: for programs as OpenAPI, and for people as a page. IO: aiohttp; reads a file once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web
from typing_extensions import override

from capamesh.router.http.packing import takes_gzip
from capamesh.router.http.replies import JSON
from capamesh.router.http.route import ANY_KEY, Content, Pages, Route, json_of
from capamesh.router.http.safe_pages import html_page
from capamesh.router.http.schemas.page import OpenApi
from capamesh.router.page.static_files import packed

if TYPE_CHECKING:
    from capamesh.router.page.static_files import StaticFiles

FILE: Final = Path(__file__).with_name("openapi.json")
"""The description, which `make reference` makes of the routes."""


class DocumentsApi(Pages):
    """`/openapi.json` and `/docs`. They say what the program can do, and nothing of the network: any key may read them."""

    def __init__(self, files: StaticFiles) -> None:
        """Read the description; raise `OSError` when it cannot be read. `files` are those of the pages."""
        self._files = files
        self._plain = FILE.read_bytes()
        self._packed = packed(self._plain)
        self._tag = hashlib.sha256(self._plain).hexdigest()[:16]

    @override
    def routes(self) -> list[Route]:
        return [
            Route(
                "GET",
                "/openapi.json",
                self.openapi,
                ANY_KEY,
                json_of(OpenApi),
                others={304: ()},
            ),
            Route(
                "GET",
                "/docs",
                self.docs,
                ANY_KEY,
                (Content(str, "text/html"),),
                others={308: ()},
            ),
        ]

    async def docs(self, request: web.Request) -> web.Response:
        """Return a page that shows all routes to a browser, and sends requests to them."""
        if request.path.endswith("/"):  # what it names lies beside it
            return web.Response(status=308, headers={"Location": "../docs"})
        return html_page(self._files.docs, {"Cache-Control": "no-cache"})

    async def openapi(self, request: web.Request) -> web.Response:
        """Return the description of all routes for programs, in OpenAPI 3.1."""
        headers = {
            "Content-Type": JSON,
            "Cache-Control": "no-cache",
            "ETag": f'W/"{self._tag}"',
            "Vary": "Accept-Encoding",
        }
        if any(each.value in {self._tag, "*"} for each in request.if_none_match or ()):
            del headers["Content-Type"]
            return web.Response(status=304, headers=headers)
        if takes_gzip(request.headers.get("Accept-Encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return web.Response(body=self._packed, headers=headers)
        return web.Response(body=self._plain, headers=headers)
