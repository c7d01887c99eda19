"""Serves an application of aiohttp by a thread of its own. IO: sockets and threads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

from aiohttp import web

LIMIT_S = 120.0
"""Nothing here takes long; whatever is not over by then hangs."""


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
