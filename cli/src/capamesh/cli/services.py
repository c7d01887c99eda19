"""Runs a node or a router in this process. IO: sets up logs, and the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import structlog
import uvloop

from capamesh.protocol.descriptors import raise_descriptor_limit
from capamesh.protocol.gc_tuning import freeze_loaded_objects
from capamesh.protocol.logs import configure_logs
from capamesh.protocol.quick_imports import quick_imports

if TYPE_CHECKING:
    from capamesh.node.agent.settings import NodeSettings
    from capamesh.router.settings import RouterSettings


def run_node(settings: NodeSettings, owner_fd: int | None = None) -> None:
    """Run a node until SIGTERM or SIGINT, or until the pipe `owner_fd` ends."""
    with quick_imports():
        from capamesh.node.agent.agent import NodeAgent  # noqa: PLC0415 - a router does not need it

    configure_logs()
    raise_descriptor_limit(structlog.get_logger())
    freeze_loaded_objects()

    async def serve() -> None:
        _stop_with(owner_fd)
        await NodeAgent(settings, structlog.get_logger()).run()

    uvloop.run(serve())


def run_router(settings: RouterSettings, owner_fd: int | None = None) -> None:
    """Run a router until SIGTERM or SIGINT, or until the pipe `owner_fd` ends."""
    with quick_imports():
        from capamesh.router.process.parts import RouterParts  # noqa: PLC0415 - a node does not need it
        from capamesh.router.process.router import Router  # noqa: PLC0415 - likewise

    configure_logs()
    raise_descriptor_limit(structlog.get_logger())
    freeze_loaded_objects()

    async def serve() -> None:
        _stop_with(owner_fd)
        parts = RouterParts(settings, structlog.get_logger(), asyncio.get_running_loop())
        await Router(parts).run()

    uvloop.run(serve())


def _stop_with(owner_fd: int | None) -> None:
    if owner_fd is None:
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(owner_fd)
        os.kill(os.getpid(), signal.SIGTERM)

    os.set_inheritable(owner_fd, False)
    loop.add_reader(owner_fd, ended)
