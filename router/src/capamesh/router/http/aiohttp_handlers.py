"""aiohttp's handlers of connections that the front accepts: what aiohttp itself refuses has the form of all errors. IO: aiohttp."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler
from typing_extensions import override

from capamesh.protocol.errors import CapameshError, InvalidRequest, LocalError
from capamesh.protocol.oip import error_body
from capamesh.router.http.errors import code_of, error_response
from capamesh.router.http.replies import JSON

if TYPE_CHECKING:
    from capamesh.router.http.open_requests import OpenRequests

SHUTDOWN_S: Final = 1.0
"""Seconds for connections that are left after the requests under way are answered."""
READ_BYTES: Final = 16 * 1024
"""Twice that, and a read, is kept of a body that nobody reads, or waits for room (guess: a thousand such are 100 MB)."""
FOREVER_S: Final = 1e9
"""Seconds that aiohttp bears an idle connection: one on which it is idle may be busy at the front, which looks after that."""
CHUNKED: Final = "chunked"
CONTINUE: Final = "100-continue"
MESSAGE_CHARS: Final = 200
"""The characters that are told of what aiohttp says of a request: a line, without the bytes that it shows."""


class RefusingHandler(RequestHandler):
    """The handler of one connection. What it refuses before a route is found is counted as other such refusals are."""

    __slots__ = ("_requests",)

    def __init__(
        self,
        server: web.Server,
        requests: OpenRequests,
        **options: Any,  # noqa: ANN401 - as aiohttp has them
    ) -> None:
        """Take the options of aiohttp's handler."""
        super().__init__(server, **options)
        self._requests = requests

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what is no request, or has crashed; raise `ConnectionError` if some of an answer was sent."""
        super().handle_error(request, status, exc, message)  # writes it to the log
        error: CapameshError = LocalError("the router failed on this request; see its log")
        if isinstance(exc, HttpProcessingError):
            said = (message or type(exc).__name__).partition("\n")[0].rstrip(" :")
            error = InvalidRequest(f"the request cannot be read: {said[:MESSAGE_CHARS]}")
        refusal = _last(error)
        unread = self._requests.unread
        unread[refusal.status] = unread.get(refusal.status, 0) + 1
        return refusal


def make_runner(application: web.Application) -> web.AppRunner:
    """Return what runs an application for the handlers of `handlers_of`, once it is set up."""
    return web.AppRunner(
        application, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S
    )


def handlers_of(runner: web.AppRunner, requests: OpenRequests) -> Callable[[], RequestHandler]:
    """Return what makes a handler for a connection, by a runner that is set up; refusals are counted among `requests`."""
    server = runner.server
    assert server is not None  # noqa: S101 - it is set up
    logger = logging.getLogger("capamesh.router.aiohttp")
    logger.addFilter(_is_worth_a_line)
    options: dict[str, Any] = {
        "loop": asyncio.get_running_loop(),
        "access_log": None,
        "auto_decompress": False,  # see `bodies`
        "read_bufsize": READ_BYTES,
        "logger": logger,
        "keepalive_timeout": FOREVER_S,
    }
    ask = server.request_handler

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get("Transfer-Encoding", CHUNKED):
            # aiohttp takes it where a length follows; another server might take the body for chunks
            return _last(InvalidRequest("the request cannot be read: Transfer-Encoding is empty"))
        expected = request.headers.get("Expect", CONTINUE)
        if request.version == HttpVersion11 and expected.lower() != CONTINUE:
            text = f"Expect is {expected[:80]!r}; nothing but {CONTINUE} can be expected"
            return web.Response(status=417, body=error_body(text, code_of(417)), content_type=JSON)
        return await ask(request)

    server.request_handler = answer
    return lambda: RefusingHandler(server, requests, **options)


def _last(error: CapameshError) -> web.Response:
    """Return an error behind which the connection ends."""
    refusal = error_response(error)
    refusal.force_close()
    # aiohttp may answer by HTTP/1.0, where it would go without saying
    refusal.headers["Connection"] = "close"
    return refusal


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Return whether a record is not on what a client sent: a stranger could fill the disk with tracebacks."""
    return not (
        record.exc_info
        and isinstance(
            record.exc_info[1],
            # the last: a body that was given up for others, of which aiohttp waits for the rest
            HttpProcessingError | web.RequestPayloadError | CapameshError,
        )
    )
