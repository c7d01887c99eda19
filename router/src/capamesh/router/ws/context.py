"""The things that the streams of one router share. IO: none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capamesh.protocol.errors import ModelNotFound
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.http.exchange import InferTarget
from capamesh.router.http.key_check import with_tenant

if TYPE_CHECKING:
    from collections.abc import Collection

    from capamesh.protocol.adverts import ModelOffer
    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.ws.handshake import StreamHead


class StreamContext:
    """The server of a stream, as the stream sees it."""

    def __init__(self, front: FrontContext, origins: Collection[str]) -> None:
        self.front = front
        self.inference = front.inference
        self.origins = frozenset(origins)
        self.open = 0
        """The streams that are open."""
        self.misbehaved = 0
        """The streams that were ended for what their clients did."""

    def target(self, head: StreamHead) -> InferTarget:
        """Return the target of a stream's next request: its key may have been revoked since the last.

        Raises `Unauthenticated`, `Forbidden` or `KeysUnavailable`.
        """
        key = self.front.keys.of_inference(head.model, head.authorization, head.api_key)
        return InferTarget(head.model, head.version, with_tenant(head.options, key), key=key)

    def offer(self, head: StreamHead) -> ModelOffer | None:
        """Return how a node describes the model; None: none has it ready now. Raises `ModelNotFound`: nobody knows it."""
        fleet = self.inference.fleet
        offer = fleet.offer(head.model, head.version)
        if offer is None:
            missing = not_hosted(fleet, head.model, head.version)
            if isinstance(missing, ModelNotFound):
                raise missing
        return offer
