"""Streams of one router: takes over connections of the front on which a WebSocket is asked for. IO: that of the connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError, ModelUnavailable, NoEndpoint
from capamesh.router.http.errors import error_reply
from capamesh.router.http.guests import Upgrades
from capamesh.router.telemetry import metrics
from capamesh.router.ws.connection import StreamConnection
from capamesh.router.ws.context import StreamContext
from capamesh.router.ws.handshake import read_head
from capamesh.router.ws.opening import OpeningStream

if TYPE_CHECKING:
    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.http.guests import Guest, Host
    from capamesh.router.http.replies import Reply
    from capamesh.router.telemetry import Telemetry


class StreamServer(Upgrades):
    """The server, which makes a guest of each such connection."""

    def __init__(self, front: FrontContext) -> None:
        self._context = StreamContext(front)

    @property
    def open(self) -> int:
        """Return how many streams are open."""
        return self._context.open

    @property
    def misbehaved(self) -> int:
        """Return how many streams were ended for what their clients did."""
        return self._context.misbehaved

    @override
    def upgrade(self, host: Host, head: bytes) -> Guest | Reply | None:
        context = self._context
        try:
            asked = read_head(head, context.front.origin_check)
            if asked is None:
                return None
            context.target(asked)
            try:
                offer = context.offer(asked)
            except (ModelUnavailable, NoEndpoint):
                opening = OpeningStream(context, host, asked)
                opening.begin()
                return opening
            return StreamConnection(context, host, asked, offer)
        except CapameshError as error:
            return error_reply(error.with_traceback(None))

    def watch(self, telemetry: Telemetry) -> None:
        """Export how many streams are open, and how many clients had to be sent away."""
        telemetry.watch(metrics.STREAMS, lambda: self._context.open)
        telemetry.watch(metrics.STREAMS_MISBEHAVED, lambda: self._context.misbehaved)
