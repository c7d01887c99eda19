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
from capamesh.protocol.thread_turns import let_the_loop_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
    with quick_imports():  # a wrong file ends it before all else is read in
        from capamesh.router.process.rules_keys import load_rules  # noqa: PLC0415 - a node does not need it
        from capamesh.router.rules.model_rules import ModelRules  # noqa: PLC0415 - likewise
    load_rules(settings.rules_file, ModelRules(policy=settings.policy))
    run = _alone() if settings.workers == 1 else _with_workers()
    let_the_loop_in()
    configure_logs()
    raise_descriptor_limit(structlog.get_logger())
    freeze_loaded_objects()

    async def serve() -> None:
        _stop_with(owner_fd)
        await run(settings)

    uvloop.run(serve())


def _alone() -> Callable[[RouterSettings], Awaitable[None]]:
    """Return what runs a router that is one process."""
    with quick_imports():
        from capamesh.router.process.parts import RouterParts  # noqa: PLC0415 - a node does not need it
        from capamesh.router.process.router import Router  # noqa: PLC0415 - likewise

    async def run(settings: RouterSettings) -> None:
        loop = asyncio.get_running_loop()
        await Router(RouterParts(settings, structlog.get_logger(), loop)).run()

    return run


def _with_workers() -> Callable[[RouterSettings], Awaitable[None]]:
    """Return what runs the main process of a router with workers."""
    with quick_imports():
        from capamesh.router.process.parts import RouterParts  # noqa: PLC0415 - a node does not need it
        from capamesh.router.process.workers.main import MainProcess, MainSeat  # noqa: PLC0415

    async def run(settings: RouterSettings) -> None:
        loop, seat = asyncio.get_running_loop(), MainSeat()
        parts = RouterParts(settings, structlog.get_logger(), loop, seat)
        await MainProcess(parts, seat).run()

    return run


def _stop_with(owner_fd: int | None) -> None:
    if owner_fd is None:
        return
    loop = asyncio.get_running_loop()

    def ended() -> None:
        loop.remove_reader(owner_fd)
        os.kill(os.getpid(), signal.SIGTERM)

    os.set_inheritable(owner_fd, False)
    loop.add_reader(owner_fd, ended)
