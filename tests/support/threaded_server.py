"""Serves an application of aiohttp by a thread of its own. IO: sockets and threads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from aiohttp import web
from patience import LIMIT_S

Handler = Callable[[web.Request], Awaitable[Any]]


def application_of(
    *routes: tuple[str, Handler], middlewares: Sequence[Any] = ()
) -> web.Application:
    """Return an application of handlers by `METHOD path`, which return a response, JSON, or a status, JSON and headers."""
    application = web.Application(client_max_size=2**26, middlewares=[*middlewares, _in_json])
    for line, handler in routes:
        application.router.add_route(*line.split(), handler)
    return application


def refusal(status: int, code: str, words: str) -> tuple[int, dict[str, str], dict[str, str]]:
    return status, {"error": words, "code": code}, {"X-Capamesh-Error": code}


@web.middleware
async def _in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    given = await handler(request)
    if isinstance(given, web.StreamResponse):
        return given
    status, body, headers = given if isinstance(given, tuple) else (200, given, {})
    return web.json_response(body, status=status, headers=headers)


@contextlib.contextmanager
def served(application: web.Application) -> Iterator[str]:
    """Serve an application on a port that is free; yields its URL."""
    loop = asyncio.new_event_loop()
    is_up, stop = threading.Event(), asyncio.Event()
    url = ""

    async def serve() -> None:
        nonlocal url
        runner = web.AppRunner(application, shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        is_up.set()
        await stop.wait()
        # asyncio loses, and leaves open, whoever it accepts in the turn in which its server is closed
        loop.remove_reader(listener)
        for _ in range(10):
            await asyncio.sleep(0)
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert is_up.wait(LIMIT_S)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(LIMIT_S)
        loop.close()
