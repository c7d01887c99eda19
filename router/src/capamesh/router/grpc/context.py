"""The things that the gRPC connections of one router share. IO: that of the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.router.grpc.exchange import GrpcInference
from capamesh.router.grpc.heads import CallHeads
from capamesh.router.grpc.methods import Methods

if TYPE_CHECKING:
    from collections.abc import Callable

    from capamesh.router.access.audience import Audience
    from capamesh.router.grpc.http2 import Http2Session
    from capamesh.router.http.exchange import Inference
    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.requests.model_descriptions import ModelDescriptions
    from capamesh.router.requests.repository import RepositoryControl


class GrpcContext:
    """The server of a connection, as the connection sees it."""

    def __init__(
        self,
        inference: Inference,
        descriptions: ModelDescriptions,
        front: FrontContext,
        repository: RepositoryControl,
        make_session: Callable[[], Http2Session],
        audience: Audience,
    ) -> None:
        self.front = front
        self.make_session = make_session
        self.heads = CallHeads(front.origin_check)
        self.methods = Methods(
            GrpcInference(inference), descriptions, front, repository, inference.log, audience
        )
        self.clock = inference.routing.clock
        self.misbehaved = 0
        """The connections that were ended for what their clients did."""
