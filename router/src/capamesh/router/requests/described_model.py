"""The description of a model, for a request that is read by it: the model is loaded for it where it is away. IO: links."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import InferCall
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.requests.call import Call, Handle, Responder

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.requests.call import Outcome
    from capamesh.router.requests.inference import InferenceService, Target


async def described(service: InferenceService, target: Target, until_s: float) -> ModelOffer:
    """Return how a node describes the model of a request, once one has it ready.

    One that is away for want of memory is loaded as for a request that can be read without: it waits in the same places, with its body
    where that is held already. Raises the `CapameshError` why no node has the model by `until_s`, on the router's clock.
    """
    fleet, model, version = service.fleet, target.model, target.version
    offer = fleet.offer(model, version)
    if offer is not None:
        return offer
    unread = _Unread()
    call = Call(InferCall(model, version, (), ()), target.options, until_s)
    missing = not_hosted(fleet, model, version)
    waiting = service.routing.pipeline.cold.begin(call, unread, missing, start=unread.start)
    try:
        await unread.turn
    finally:
        waiting.cancel()
    offer = fleet.offer(model, version)
    if offer is None:  # it is away again
        raise not_hosted(fleet, model, version)
    return offer


class _Unread(Responder, Handle):
    """A request that is not read yet, and waits until it is its turn."""

    def __init__(self) -> None:
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, call: Call, responder: Responder) -> Handle:
        """Take its turn: the model can be had."""
        del call, responder
        if not self.turn.done():
            self.turn.set_result(None)
        return self

    @override
    def fail(self, error: CapameshError) -> None:
        if not self.turn.done():
            self.turn.set_exception(error)

    @override
    def complete(self, outcome: Outcome) -> None:
        """Do nothing: nothing was asked of a node."""

    @property
    @override
    def picker(self) -> RequestPicker | None:
        return None

    @override
    def cancel(self) -> None:
        """Do nothing: nothing was asked of a node."""
