"""Tells what aiohttp's handler of a connection is doing, which nothing public of it tells. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp.web import BaseRequest
    from aiohttp.web_protocol import RequestHandler


def is_busy(pages: RequestHandler) -> bool:
    """Return whether aiohttp has a request to answer, of which nothing public tells either."""
    is_running = pages._request_in_progress  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    messages = pages._messages  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return is_running or bool(messages)


def running(pages: RequestHandler) -> BaseRequest | None:
    """Return the request whose handler aiohttp runs; None: it runs none, or writes its answer already."""
    return pages._current_request  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def is_waiting_for_body(pages: RequestHandler) -> bool:
    """Return whether the request that aiohttp runs is not here whole."""
    request = running(pages)
    return request is not None and not request.content.is_eof()


def is_at_last(pages: RequestHandler) -> bool:
    """Return whether no other request waits behind the one that aiohttp runs, or that it answers."""
    is_running = pages._request_in_progress  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    messages = pages._messages  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return is_running and not messages


def is_idle(pages: RequestHandler) -> bool:
    """Return whether aiohttp waits for a request, as nothing public of it says; all that it got were whole ones."""
    waiter = pages._waiter  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    messages = pages._messages  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return waiter is not None and not waiter.done() and not messages
