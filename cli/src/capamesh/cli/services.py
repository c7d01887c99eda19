"""Runs a node or a router in this process. IO: sets up logs, and the event loop."""

from __future__ import annotations

import structlog
import uvloop

from capamesh.node.settings import NodeSettings
from capamesh.protocol.logs import configure_logs
from capamesh.router.settings import RouterSettings


def run_node(settings: NodeSettings) -> None:
    """Run a node until SIGTERM or SIGINT."""
    from capamesh.node.agent import NodeAgent  # noqa: PLC0415 - a router does not need it

    configure_logs()

    async def serve() -> None:
        await NodeAgent(settings, structlog.get_logger()).run()

    uvloop.run(serve())


def run_router(settings: RouterSettings) -> None:
    """Run a router until SIGTERM or SIGINT."""
    from capamesh.router.service import Router  # noqa: PLC0415 - a node does not need it

    configure_logs()

    async def serve() -> None:
        await Router(settings, structlog.get_logger()).run()

    uvloop.run(serve())
