"""A node in virtual time: its models, its links, and what befalls it. Pure.

What is left out: copies of data, the event loop's own time, and that models share a device.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from capamesh.node.scheduling import PendingRequest, Result
from capamesh.protocol.adverts import Device, NodeAdvert
from capamesh.protocol.adverts import Sequence as AdvertSequence
from capamesh.protocol.errors import CapameshError
from capamesh.protocol.ids import PeerId
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.simulation.model import FREE_BYTES, ILL, SimModel
from capamesh.simulation.scenario import FaultKind

if TYPE_CHECKING:
    from capamesh.protocol.links.calls import LoadReport
    from capamesh.simulation.events import Events
    from capamesh.simulation.exchange import Exchange, Probe
    from capamesh.simulation.network import SimLink
    from capamesh.simulation.scenario import ModelSpec, NodeGroup

DRAIN_LEAST_S = 0.5
"""A node that drains listens at least so long: what was sent before the routers knew has come then (guess)."""

LIAR_LIMIT = 10**9
"""What a liar says that it has room for (guess: more than any fleet has)."""


class SimNode:
    """One node with all the scenario's models."""

    def __init__(
        self,
        index: int,
        group: NodeGroup,
        models: tuple[ModelSpec, ...],
        events: Events,
        rng: random.Random,
        *,
        publish: Callable[[NodeAdvert], None],
    ) -> None:
        """Take part; `publish` brings an advert to the routers, in time."""
        self.index = index
        self.group = group
        self.rng = rng
        self.slowness = group.slowness
        self.is_up = True
        self.is_frozen = False
        self.is_draining = False
        self.slow_factor = 1.0
        """The scenario's faults."""
        self.antagonist_factor = 1.0
        self.error_share = 0.0
        self.fast_error_share = 0.0
        self.silent_share = 0.0
        self.is_liar = False
        self._events = events
        self._publish = publish
        self._noise = group.noise
        self._noise_shift = -group.noise * group.noise / 2
        self._links: dict[SimLink, None] = {}
        self._starts = 1
        self._deferred: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._drained: Callable[[], None] | None = None
        self._drain_least_s = 0.0
        self._version = 0
        self._inputs: dict[int, tuple[Tensor, ...]] = {}
        self.models = {spec.name: SimModel(spec, self, events) for spec in models}
        self._only = next(iter(self.models.values())) if len(models) == 1 else None

    def __repr__(self) -> str:
        return f"SimNode({self.index}, {self.group.name!r}, {self.device_in_flight()} in flight)"

    @property
    def peer(self) -> PeerId:
        """Its name."""
        return PeerId(f"node-{self.index:04d}")

    # what models ask

    def run_s(self, expected_s: float) -> float:
        """Return how long a run takes now that should take `expected_s` on this device."""
        run_s = expected_s * self.slow_factor * self.antagonist_factor
        if self._noise:
            run_s *= math.exp(self.rng.gauss(self._noise_shift, self._noise))
        return run_s

    def device_in_flight(self) -> int:
        """Return how many requests are in flight, of all models."""
        if self._only is not None:
            return self._only.batcher.in_flight
        return sum(model.batcher.in_flight for model in self.models.values())

    def later(self, do: Callable[..., None], *args: object) -> None:
        """Do it when the process goes on."""
        self._deferred.append((do, args))

    # what comes over links

    def link_up(self, link: SimLink) -> None:
        """Part of `NodeEnd`."""
        self._links[link] = None
        if self.is_draining:
            link.go_away()

    def link_down(self, link: SimLink) -> None:
        """Part of `NodeEnd`."""
        self._links.pop(link, None)
        for exchange in link.pending:
            self._cancel(exchange)

    def requested(self, exchange: Exchange) -> None:
        """A request has come: queue it, refuse it, or be ill."""
        link = exchange.link
        if not link.is_open:
            return
        if self.is_frozen:
            self.later(self.requested, exchange)
            return
        kind = exchange.request.kind
        if self.fast_error_share and self.rng.random() < self.fast_error_share:
            link.to_router(0, link.router.failed_at_node, exchange, ILL)
            return
        if self.silent_share and self.rng.random() < self.silent_share:
            return
        now_s = self._events.now_s
        inputs = self._inputs.get(kind.rows)
        if inputs is None:
            self._inputs[kind.rows] = inputs = (
                Tensor("x", Datatype.UINT8, (kind.rows, 1), bytes(kind.rows)),
            )
        exchange.model = model = self.models[kind.model]
        exchange.work = work = PendingRequest(
            inputs,
            (),
            partial(self._done, exchange),
            arrived_s=now_s,
            deadline_s=now_s + exchange.budget_s,
            priority=kind.priority,
            is_bulk=kind.is_bulk,
        )
        try:
            model.submit(work)
        except CapameshError as error:
            exchange.work = None
            error.load = self._said(model.load())
            link.to_router(0, link.router.failed_at_node, exchange, error)

    def withdrawn(self, exchange: Exchange) -> None:
        """A request is not wanted any more."""
        if exchange.link.is_open:
            self._cancel(exchange)

    def _cancel(self, exchange: Exchange) -> None:
        if self.is_frozen:
            self.later(self._cancel, exchange)
            return
        model, work = exchange.model, exchange.work
        exchange.work = None
        if model is not None and work is not None and self.is_up:
            model.batcher.cancel(work, self._events.now_s)
            model.pump()

    def probed(self, probe: Probe) -> None:
        """A router asks for the load of a model."""
        link = probe.link
        if not link.is_open:
            return
        if self.is_frozen:
            self.later(self.probed, probe)
            return
        load = self.models[probe.replica.offer.name].load()
        link.to_router(0, link.router.load_reported, probe, self._said(load))

    def _done(self, exchange: Exchange, work: PendingRequest, result: Result) -> None:
        link, model = exchange.link, exchange.model
        exchange.work = None
        if isinstance(result, CapameshError) or model is None:
            error = result if isinstance(result, CapameshError) else ILL
            if model is not None and error is not ILL:
                error.load = self._said(model.load())
            link.to_router(0, link.router.failed_at_node, exchange, error)
            return
        load = self._said(model.load_after(work.batch))
        at_node_s = work.started_s - work.arrived_s + work.run_s
        link.to_router(
            exchange.request.kind.size_bytes // 2, link.router.answered, exchange, load, at_node_s
        )

    def _said(self, load: LoadReport) -> LoadReport:
        if self.is_liar:
            return load._replace(
                in_flight=0,
                queued=0,
                limit=LIAR_LIMIT,
                queue_us=0,
                run_us=1,
                latency_us=1,
                device_in_flight=0,
            )
        return load

    # what befalls it

    @property
    def process(self) -> bytes:
        """Which process it is: another each time that it starts."""
        return str(self._starts).encode()

    def freeze(self) -> None:
        """Stand still."""
        self.is_frozen = True
        for link in self._links:
            link.fall_silent()

    def thaw(self) -> None:
        """Go on as if nothing had been."""
        self.is_frozen = False
        for link in self._links:
            if not link.is_cut:
                link.speak()
        deferred, self._deferred = self._deferred, []
        for do, args in deferred:
            do(*args)

    def recover(self, kind: FaultKind) -> None:
        """Get over an illness."""
        match kind:
            case FaultKind.SLOW:
                self.slow_factor = 1.0
            case FaultKind.ERRORS:
                self.error_share = 0.0
            case FaultKind.FAST_ERRORS:
                self.fast_error_share = 0.0
            case FaultKind.SILENT:
                self.silent_share = 0.0
            case FaultKind.LIAR:
                self.is_liar = False
            case _:
                raise ValueError(f"{kind} is no illness that a node gets over by itself")

    def kill(self) -> None:
        """End at once, with all that is in flight."""
        if not self.is_up:
            return
        self.is_up = self.is_frozen = self.is_draining = False
        self._drained = None
        self._deferred.clear()
        for model in self.models.values():
            model.restart()
        links, self._links = self._links, {}
        for link in links:
            link.close_at_node("the process ended")

    def start(self) -> None:
        """Be there again."""
        if not self.is_up:
            self.is_up = True
            self._starts += 1
            self.announce()

    def drain(self, drained: Callable[[], None]) -> None:
        """Take nothing new; call `drained` once what is in flight is answered."""
        if not self.is_up or self.is_draining:
            return
        self.is_draining = True
        self._drained = drained
        self._drain_least_s = self._events.now_s + DRAIN_LEAST_S
        self._events.at(self._drain_least_s, self.check_drained)
        self.announce()
        for link in self._links:
            link.go_away()

    def check_drained(self) -> None:
        """Something has ended: perhaps it was the last."""
        if (
            self._drained is not None
            and self._events.now_s >= self._drain_least_s
            and not any(model.is_busy for model in self.models.values())
        ):
            drained, self._drained = self._drained, None
            drained()

    def announce(self) -> None:
        """Tell the routers what it is now."""
        self._publish(self.advert())

    def advert(self) -> NodeAdvert:
        """Return the next advert."""
        self._version += 1
        address = f"{self.peer}:1"
        device = Device(
            0, "cpu", self.group.name, "CPUExecutionProvider", FREE_BYTES, FREE_BYTES, (address,)
        )
        return NodeAdvert(
            peer=self.peer,
            sequence=AdvertSequence(1, self._version),
            devices=(device,),
            models=tuple(model.offer() for model in self.models.values()),
            region=self.group.region,
            price_per_million=self.group.price_per_million,
            agent_version="1",
            is_draining=self.is_draining,
        )
