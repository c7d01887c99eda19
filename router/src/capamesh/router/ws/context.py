"""The things that the streams of one router share. IO: none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from capamesh.protocol.errors import InvalidRequest, ModelNotFound
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.http.exchange import InferTarget
from capamesh.router.requests.key_scope import within_scope
from capamesh.router.ws.handshake import REQUESTS, SAMPLES

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer
    from capamesh.router.http.front_context import FrontContext
    from capamesh.router.ws.handshake import StreamHead

WIRE: Final = "websocket"
"""The name of this wire in metrics."""


class StreamContext:
    """The server of a stream, as the stream sees it."""

    def __init__(self, front: FrontContext) -> None:
        self.front = front
        self.inference = replace(front.inference, wire=WIRE)
        self.open = 0
        """The streams that are open."""
        self.misbehaved = 0
        """The streams that were ended for what their clients did."""

    def target(self, head: StreamHead) -> InferTarget:
        """Return the target of a stream's next request: its key may have been revoked since the last.

        Raises `Unauthenticated`, `Forbidden` or `KeysUnavailable`.
        """
        key = self.front.keys.of_inference(head.model, head.authorization, head.api_key)
        return InferTarget(head.model, head.version, within_scope(head.options, key), key=key)

    def offer(self, head: StreamHead) -> ModelOffer | None:
        """Return how a node describes the model; None: none has it ready now, and whole requests are to come.

        Raises:
            ModelNotFound: nobody knows the model.
            ModelUnavailable: no node has it ready, so that nobody can tell what windows it takes.
            NoEndpoint: likewise.
            InvalidRequest: it takes no samples.
        """
        fleet = self.inference.fleet
        offer = fleet.offer(head.model, head.version)
        if offer is None:
            missing = not_hosted(fleet, head.model, head.version)
            if isinstance(missing, ModelNotFound) or head.messages != REQUESTS:
                raise missing
        elif head.messages == SAMPLES and offer.windows is None:
            raise InvalidRequest(
                f"model {head.model!r} takes no samples: its manifest declares no window; send whole requests"
            )
        return offer
