"""gRPC of one router: takes over connections of the front that begin with HTTP/2. IO: that of the connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.router.access.audience import Audience
from capamesh.router.grpc.connection import GrpcConnection
from capamesh.router.grpc.context import GrpcContext
from capamesh.router.grpc.http2_by_hand import SessionByHand
from capamesh.router.http.guests import Guests
from capamesh.router.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.router.grpc.http2 import Http2Session
    from capamesh.router.http.exchange import Inference
    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.http.guests import Guest, Host
    from capamesh.router.requests.model_descriptions import ModelDescriptions
    from capamesh.router.requests.repository import RepositoryControl
    from capamesh.router.telemetry import Telemetry


class GrpcServer(Guests):
    """The server, which makes a guest of each such connection."""

    def __init__(
        self,
        inference: Inference,
        descriptions: ModelDescriptions,
        front: FrontContext,
        repository: RepositoryControl,
        make_session: Callable[[], Http2Session] | None = None,
        *,
        audience: Audience = Audience.ALL,
    ) -> None:
        """`make_session` is for tests, which compare what speaks HTTP/2. The `audience` is the front's."""
        self._context = GrpcContext(
            inference, descriptions, front, repository, make_session or SessionByHand, audience
        )

    @property
    def misbehaved(self) -> int:
        """Return how many connections were ended for what their clients did."""
        return self._context.misbehaved

    @override
    def welcome(self, host: Host) -> Guest:
        return GrpcConnection(self._context, host)

    def watch(self, telemetry: Telemetry) -> None:
        """Export how many clients had to be sent away."""
        telemetry.watch(metrics.GRPC_MISBEHAVED, lambda: self._context.misbehaved)
