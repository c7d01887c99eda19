"""The page at the router's address, the list of routes, and what keeps the page current. IO: aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING, Annotated, Final

from aiohttp import web
from typing_extensions import override

from capamesh.protocol.errors import InvalidRequest
from capamesh.protocol.schema import Meta
from capamesh.router.access.keys import Verb
from capamesh.router.http.elsewhere import HISTORY, NOBODY_ELSE, Elsewhere
from capamesh.router.http.key_check import is_logged_in, is_still_taken
from capamesh.router.http.packing import takes_gzip
from capamesh.router.http.route import ANY_KEY, TABLE, Content, Pages, Parameter, Route, json_of
from capamesh.router.http.safe_pages import html_page
from capamesh.router.http.schemas import page as schemas
from capamesh.router.page.history_answers import answer_of

if TYPE_CHECKING:
    from capamesh.router.page.backlog import Reader
    from capamesh.router.page.feed import Feed
    from capamesh.router.page.history_answers import HistoryAnswers
    from capamesh.router.page.static_files import StaticFiles

FOR_EVER: Final = "public, max-age=31536000, immutable"
STILL_EVERY_S: Final = 15.0
"""Seconds after which a stream says something even if nothing changes: proxies close silent ones after 30 s or more."""
WRITE_S: Final = 30.0
"""Seconds that a viewer may take to read a piece of a frame (guess); one that takes longer is hung up on."""
LOOK_S: Final = 1.0
"""Seconds between two looks whether the router is stopping."""
DAY_S: Final = 86400
_MOST_DIGITS: Final = 9
STREAM: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}
"""The headers of a stream of events."""
_FILES: Final = tuple(
    Content(bytes, media_type) for media_type in ("text/javascript", "text/css", "image/svg+xml")
)
_STILL: Final = b"event: still\ndata: {}\n\n"
_RESET: Final = b"event: reset\ndata: {}\n\n"


class PageApi(Pages):
    """`/`, the page's files, its snapshot and the stream of what changes."""

    def __init__(
        self,
        files: StaticFiles,
        feed: Feed,
        history: HistoryAnswers,
        *,
        is_closing: Callable[[], bool],
        clock: Callable[[], float],
        elsewhere: Elsewhere = NOBODY_ELSE,
    ) -> None:
        """`is_closing` returns whether the router is about to stop; `clock` is in seconds.

        `elsewhere` has the history of all processes of the router.
        """
        self._elsewhere = elsewhere
        self._files = files
        self._feed = feed
        self._history = history
        self._is_closing = is_closing
        self._version = package_version("capamesh")
        self._clock = clock

    @override
    def routes(self) -> list[Route]:
        read = (Verb.READ,)
        return [
            Route(
                "GET",
                "/",
                self.root,
                read,
                (Content(schemas.RouteList), Content(str, "text/html")),
            ),
            Route("GET", "/page/{digest}/{name}", self.file, ANY_KEY, _FILES),
            Route("GET", "/v1/page/snapshot", self.snapshot, read, json_of(schemas.Snapshot)),
            Route(
                "GET",
                "/v1/page/changes",
                self.changes,
                read,
                (Content(str, "text/event-stream"),),
                query=(Parameter("after", "The revision after which to begin."),),
                headers=(Parameter("Last-Event-ID", "The same, as browsers say it."),),
                errors=(503,),
            ),
            Route(
                "GET",
                "/v1/page/history",
                self.history,
                read,
                json_of(schemas.History),
                query=(
                    Parameter("span", "The seconds to look back.", Annotated[int, Meta(ge=0)]),
                    Parameter("model", "The model; left out: the router."),
                ),
                errors=(400,),
                others={304: ()},
            ),
        ]

    async def root(self, request: web.Request) -> web.Response:
        """Return the page to a browser; to others, as JSON, what this is and all its routes."""
        headers = {"Vary": "Accept", "Cache-Control": "no-cache"}
        if "text/html" in request.headers.get("Accept", ""):
            index = self._files.index
            if is_logged_in(request):
                index = index.replace(b"<html ", b"<html data-login ", 1)
            return html_page(index, headers)
        return web.json_response(
            {
                "name": "capamesh",
                "version": self._version,
                "routes": [
                    {"method": route.method, "path": route.path, "does": route.summary}
                    for route in request.app[TABLE].routes
                ],
            },
            headers=headers,
        )

    async def file(self, request: web.Request) -> web.Response:
        """Return one of the page's files, which a browser may keep for ever."""
        found = self._files.file(request.match_info["digest"], request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        headers = {
            "Content-Type": found.content_type,
            "Cache-Control": FOR_EVER,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        if takes_gzip(request.headers.get("Accept-Encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return web.Response(body=found.packed, headers=headers)
        return web.Response(body=found.content, headers=headers)

    async def snapshot(self, request: web.Request) -> web.Response:
        """Return all that the page shows of now, and the revision that it is."""
        is_packed = takes_gzip(request.headers.get("Accept-Encoding", ""))
        headers = {
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
            "Vary": "Accept-Encoding",
        }
        if is_packed:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=await self._feed.snapshot(is_packed=is_packed), headers=headers)

    async def changes(self, request: web.Request) -> web.StreamResponse:
        """Return, as server-sent events, what changes after the revision `after`, or in the header `Last-Event-ID`.

        An event `changes` has the values of rows that differ, and null for a row that is gone; `reset` says to begin anew with
        a snapshot, `still` that nothing has changed for 15 s.
        """
        revision = request.headers.get("Last-Event-ID") or request.query.get("after", "")
        with self._feed.following():
            response = web.StreamResponse(headers=STREAM)
            response.force_close()
            try:
                await response.prepare(request)
                reader = self._feed.reader(revision)
                if reader is None:
                    await _write(response, _RESET)
                else:
                    await self._follow(response, reader, lambda: is_still_taken(request))
            except (ConnectionError, TimeoutError):  # it left, or reads nothing
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def history(self, request: web.Request) -> web.Response:
        """Return the last `span` seconds, a day at most, of the router or of one `model`, as series with the newest point last."""
        span = request.query.get("span", str(DAY_S))
        if not (span.isascii() and span.isdigit() and len(span) <= _MOST_DIGITS):
            raise InvalidRequest(f"span is {span[:80]!r}; a whole number of seconds is expected")
        model = request.query.get("model", "")
        answer = self._history.answer(model, int(span))
        plain = await self._elsewhere.whole(f"{HISTORY}/{int(span)}/{model}", answer.plain)
        if plain != answer.plain:
            answer = answer_of(plain)
        headers = {
            "Content-Type": "application/json",
            "Cache-Control": "no-cache",
            "ETag": f'W/"{answer.tag}"',
            "Vary": "Accept-Encoding",
        }
        if any(each.value in {answer.tag, "*"} for each in request.if_none_match or ()):
            del headers["Content-Type"]
            return web.Response(status=304, headers=headers)
        if takes_gzip(request.headers.get("Accept-Encoding", "")):
            headers["Content-Encoding"] = "gzip"
            return web.Response(body=answer.packed, headers=headers)
        return web.Response(body=answer.plain, headers=headers)

    async def _follow(
        self, response: web.StreamResponse, reader: Reader, is_taken: Callable[[], bool]
    ) -> None:
        """Write what changes until the router stops, the viewer's key is not taken any more, or it is too far behind.

        Such a one is told to begin anew: at once, or inside of a frame when it comes back after the hanging up.
        """
        said_s = self._clock()
        while not self._is_closing() and is_taken():
            text = reader.read()
            if text is None:
                if not reader.is_inside:
                    await _write(response, _RESET)
                return
            if not text and self._clock() - said_s >= STILL_EVERY_S:
                text = _STILL
            if text:
                await _write(response, text)
                said_s = self._clock()
            await self._feed.wait(reader, LOOK_S)


async def _write(response: web.StreamResponse, text: bytes) -> None:
    """Write to a viewer, and let others have their turn; raise `TimeoutError` if it does not read."""
    async with asyncio.timeout(WRITE_S):
        await response.write(text)
    await asyncio.sleep(0)
