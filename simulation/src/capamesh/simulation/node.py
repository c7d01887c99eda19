"""A node in virtual time: its models, its links, its adverts, and what befalls it. Pure.

What is left out: copies of data, the event loop's own time, and that models share a device.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.node.agent.advert_schedule import JITTER
from capamesh.node.scheduling import PendingRequest, Result
from capamesh.node.worker.withdrawals import Withdrawals
from capamesh.protocol import adverts
from capamesh.protocol.adverts import NodeAdvert, advert_interval_s
from capamesh.protocol.adverts import Sequence as AdvertSequence
from capamesh.protocol.errors import CapameshError, InvalidRequest
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.call_decoder import CallDecoder
from capamesh.protocol.links.calls import (
    InferAnswer,
    InferCall,
    LoadReport,
    decode_probe,
    encode_answer,
    encode_load,
    encode_told_load,
)
from capamesh.protocol.tensors import DEFAULT_LIMITS, Tensor
from capamesh.simulation.errors import InvariantBroken
from capamesh.simulation.link import NodeEnd, SimLink
from capamesh.simulation.model import FREE_BYTES, Device, SimModel, ill
from capamesh.simulation.scenario import FaultKind, ModelSpec, NodeGroup

if TYPE_CHECKING:
    from capamesh.protocol.links.outgoing import Buffer
    from capamesh.simulation.events import Events, Timer

DRAIN_LEAST_S = 0.5
"""A node that drains listens at least so long: what was sent before the routers knew has come then (guess)."""

LIAR_LIMIT = 10**9
"""The room that a liar says that it has (guess: more than any fleet has)."""


class _Asked:
    """A router's request at the node. Compared by identity."""

    __slots__ = ("data", "link", "model", "stream", "work")

    def __init__(self, link: SimLink, stream: int, model: SimModel, data: Tensor) -> None:
        self.link = link
        self.stream = stream
        self.model = model
        self.data = data
        self.work: PendingRequest | None = None
        """The request at the node; None: it is over."""


class SimNode(NodeEnd, Device):
    """One node with all the scenario's models."""

    def __init__(
        self,
        index: int,
        group: NodeGroup,
        models: tuple[ModelSpec, ...],
        events: Events,
        rng: random.Random,
        *,
        fleet_size: int,
        publish: Callable[[NodeAdvert], None],
    ) -> None:
        """Take part; `publish` brings an advert to the routers, in time. The larger the fleet, the rarer adverts are."""
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
        self.blame_share = 0.0
        self.silent_share = 0.0
        self.is_liar = False
        self._events = events
        self._publish = publish
        self._noise = group.noise
        self._noise_shift = -group.noise * group.noise / 2
        self._links: dict[SimLink, dict[int, _Asked]] = {}
        """The requests of each link that were not answered yet, by their numbers."""
        self._withdrawals = Withdrawals(events.call_later, self._tell_load)
        self._calls = CallDecoder(DEFAULT_LIMITS)
        self._starts = 1
        self._deferred: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._drained: Callable[[], None] | None = None
        self._drain_least_s = 0.0
        self._version = 0
        self._interval_s = advert_interval_s(fleet_size)
        self._advertising: Timer | None = None
        self._is_mute = False
        """True if the node says nothing any more, whatever befalls it."""
        self.models = {
            (ModelName(spec.name), ModelVersion(spec.version)): SimModel(spec, self, events)
            for spec in models
        }
        self._only = next(iter(self.models.values())) if len(models) == 1 else None

    @override
    def __repr__(self) -> str:
        return f"SimNode({self.index}, {self.group.name!r}, {self.device_in_flight()} in flight)"

    @property
    def peer(self) -> PeerId:
        """The node's name."""
        return PeerId(f"node-{self.index:04d}")

    # what models ask

    @override
    def run_s(self, expected_s: float) -> float:
        run_s = expected_s * self.slow_factor * self.antagonist_factor
        if self._noise:
            run_s *= math.exp(self.rng.gauss(self._noise_shift, self._noise))
        return run_s

    @override
    def device_in_flight(self) -> int:
        if self._only is not None:
            return self._only.batcher.in_flight
        return sum(model.batcher.in_flight for model in self.models.values())

    @override
    def later(self, do: Callable[..., None], *args: object) -> None:
        self._deferred.append((do, args))

    # what comes over links

    @override
    def link_up(self, link: SimLink) -> None:
        self._links[link] = {}
        if self.is_draining:
            link.go_away()

    @override
    def link_down(self, link: SimLink) -> None:
        for asked in list(self._links.pop(link, {}).values()):
            self._cancel(asked)

    @override
    def requested(self, link: SimLink, stream: int, meta: bytes, body: Buffer) -> None:
        if not link.is_open:
            return
        if self.is_frozen:
            self.later(self.requested, link, stream, meta, body)
            return
        if self.fast_error_share and self.rng.random() < self.fast_error_share:
            link.fail(stream, ill())
            return
        if self.blame_share and self.rng.random() < self.blame_share:
            link.fail(stream, InvalidRequest("the caller is wrong, as the scenario has it"))
            return
        if self.silent_share and self.rng.random() < self.silent_share:
            return
        call, budget_ms = self._calls.decode(meta, memoryview(body))
        if not isinstance(call, InferCall) or budget_ms is None:
            raise InvariantBroken(f"{self!r} was sent {call!r} with a budget of {budget_ms}")
        model = self.models[call.model, call.version]
        (data,) = call.inputs
        asked = _Asked(link, stream, model, data)
        now_s = self._events.now_s
        asked.work = work = PendingRequest(
            call.inputs,
            (),
            partial(self._done, asked),
            arrived_s=now_s,
            deadline_s=now_s + budget_ms / 1000,
            priority=call.priority,
            is_bulk=call.is_bulk,
        )
        self._links[link][stream] = asked
        try:
            model.submit(work)
        except CapameshError as error:
            del self._links[link][stream]
            error.load = self._said(model.load())
            link.fail(stream, error)

    @override
    def withdrawn(self, link: SimLink, stream: int) -> None:
        if self.is_frozen:  # it is read behind the request, which may not have been read yet either
            self.later(self.withdrawn, link, stream)
            return
        asked = self._links.get(link, {}).pop(stream, None)
        if asked is not None:
            self._cancel(asked)
            spec = asked.model.spec
            self._withdrawals.add(ModelName(spec.name), ModelVersion(spec.version))

    def _tell_load(self, model: ModelName, version: ModelVersion) -> bool:
        if self.is_frozen:
            return False
        meta = encode_told_load(model, version, self._said(self.models[model, version].load()))
        for link in self._links:
            link.tell_load(meta)
        return True

    @override
    def probed(self, link: SimLink, stream: int, meta: bytes) -> None:
        if not link.is_open:
            return
        if self.is_frozen:
            self.later(self.probed, link, stream, meta)
            return
        load = self.models[decode_probe(meta)].load()
        link.report(stream, encode_load(self._said(load)))

    def _cancel(self, asked: _Asked) -> None:
        if self.is_frozen:
            self.later(self._cancel, asked)
            return
        work, asked.work = asked.work, None
        if work is not None:
            asked.model.batcher.cancel(work, self._events.now_s)
            asked.model.pump()

    def _done(self, asked: _Asked, work: PendingRequest, result: Result) -> None:
        link, stream, model = asked.link, asked.stream, asked.model
        asked.work = None
        self._links.get(link, {}).pop(stream, None)
        if isinstance(result, CapameshError):
            result.load = self._said(model.load())
            link.fail(stream, result)
            return
        data = asked.data
        meta, (body,) = encode_answer(
            InferAnswer(
                ModelVersion(model.spec.version),
                (Tensor("y", data.datatype, data.shape, data.data),),
                round((work.started_s - work.arrived_s) * 1e6),
                round(work.run_s * 1e6),
                self._said(model.load_after(work.batch)),
            )
        )
        link.respond(stream, meta, body)

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
    @override
    def process(self) -> bytes:
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
            case FaultKind.BLAMES:
                self.blame_share = 0.0
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
        self.stop_advertising()
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

    @override
    def check_drained(self) -> None:
        if (
            self._drained is not None
            and self._events.now_s >= self._drain_least_s
            and not any(model.is_busy for model in self.models.values())
        ):
            drained, self._drained = self._drained, None
            drained()

    # its adverts

    def announce(self) -> None:
        """Tell the routers what it is now, and again at intervals."""
        if self._is_mute:
            return
        if self.is_frozen:
            self.later(self.announce)
            return
        self._publish(self.advert())
        self.advertise_later()

    def advertise_later(self) -> None:
        """Advertise again after an interval, unless there is something to say before."""
        self.stop_advertising()
        after_s = self._interval_s * self.rng.uniform(1 - JITTER, 1 + JITTER)
        self._advertising = self._events.call_later(after_s, self.announce)

    def fall_mute(self) -> None:
        """Say nothing any more, also when it is started or goes on: the simulation is ending."""
        self._is_mute = True
        self.stop_advertising()

    def stop_advertising(self) -> None:
        """Say nothing more until the next `announce`."""
        if self._advertising is not None:
            self._advertising.cancel()
            self._advertising = None

    def advert(self) -> NodeAdvert:
        """Return the next advert."""
        self._version += 1
        address = f"{self.peer}:1"
        device = adverts.Device(
            0, "cpu", self.group.name, "CPUExecutionProvider", FREE_BYTES, FREE_BYTES, (address,)
        )
        return NodeAdvert(
            peer=self.peer,
            sequence=AdvertSequence(self._starts, self._version),
            devices=(device,),
            models=tuple(model.offer() for model in self.models.values()),
            region=self.group.region,
            price_per_million=self.group.price_per_million,
            agent_version="1",
            is_draining=self.is_draining,
            interval_s=self._interval_s,
        )
