"""The description of a model, for a request that is read by it: the model is loaded for it where it is away. IO: links, asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import CapameshError
from capamesh.protocol.links.calls import InferCall
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.requests.call import Call, Handle, Responder

if TYPE_CHECKING:
    from capamesh.protocol.adverts import ModelOffer
    from capamesh.router.access.quotas import Lease
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.requests.call import Outcome
    from capamesh.router.requests.inference import InferenceService, Target


class ModelWait(Responder):
    """The wait of a request that is not read yet, or of a stream, for a model that is away for want of memory.

    It waits in the same places as requests that can be read without the model, and its key is held to its limits meanwhile, as
    theirs are.
    """

    __slots__ = ("_handle", "_lease", "_on_end")

    def __init__(self, on_end: Callable[[CapameshError | None], None]) -> None:
        """`on_end` is told once that the model can be had (None), or why not, unless the wait is cancelled before; it must not raise."""
        self._on_end = on_end
        self._handle: Handle | None = None
        self._lease: Lease | None = None
        """The leave of the request's key; None: it needs none, or has given it back."""

    def begin(
        self,
        service: InferenceService,
        target: Target,
        until_s: float,
        *,
        rows: int = 1,
        size_bytes: int = 0,
    ) -> None:
        """Have the model loaded, and wait for it until `until_s` on the router's clock.

        `rows` and `size_bytes` are what the request's key is charged with, as far as it is known yet.

        Raises:
            TooManyRequests: the key is over a limit.
            CapameshError: the reason why there is nothing to wait for.
        """
        model, version, key, meter = target.model, target.version, target.key, service.meter
        if meter is not None and key is not None:
            self._lease = meter.lease(key, model, rows, size_bytes)
        call = Call(InferCall(model, version, (), ()), target.options, until_s)
        missing = not_hosted(service.fleet, model, version)
        cold = service.routing.pipeline.cold
        try:
            self._handle = cold.begin(call, self, missing, start=self._take_turn)
        except BaseException:
            self._settle()
            raise

    def give_back(self) -> None:
        """Give back what the key was charged with: the request, which goes on now, is charged from here on."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.give_back()

    def cancel(self) -> None:
        """Wait no more. Nothing happens when it is over."""
        self._settle()
        if self._handle is not None:
            self._handle.cancel()

    def _take_turn(self, call: Call, responder: Responder) -> Handle:
        """Go on: the model can be had."""
        del call, responder
        self._on_end(None)
        return _Gone()

    @override
    def fail(self, error: CapameshError) -> None:
        self._settle()
        self._on_end(error)

    @override
    def complete(self, outcome: Outcome) -> None:
        """Do nothing: nothing was asked of a node."""

    def _settle(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.settle()


class _Gone(Handle):
    """A wait that is over."""

    @property
    @override
    def picker(self) -> RequestPicker | None:
        return None

    @override
    def cancel(self) -> None:
        """Do nothing: nothing was asked of a node."""


async def described(
    service: InferenceService,
    target: Target,
    until_s: float,
    *,
    rows: int = 1,
    size_bytes: int = 0,
) -> ModelOffer:
    """Return how a node describes the model of a request, once one has it ready.

    One that is away is waited for, until `until_s` on the router's clock: see `ModelWait.begin`, which also tells of `rows`
    and `size_bytes`. Whoever goes on with the request before anything else is awaited has for it what its key had here.

    Raises:
        TooManyRequests: the model is away, and the key is over a limit.
        CapameshError: the reason why no node has the model in time.
    """
    fleet, model, version = service.fleet, target.model, target.version
    offer = fleet.offer(model, version)
    if offer is not None:
        return offer
    turn: asyncio.Future[CapameshError | None] = asyncio.get_running_loop().create_future()

    def ended(error: CapameshError | None) -> None:
        if not turn.done():
            turn.set_result(error)

    wait = ModelWait(ended)
    wait.begin(service, target, until_s, rows=rows, size_bytes=size_bytes)
    try:
        error = await turn
        if error is not None:
            raise error
        wait.give_back()
    finally:
        wait.cancel()
    offer = fleet.offer(model, version)
    if offer is None:  # it is away again
        raise not_hosted(fleet, model, version)
    return offer
