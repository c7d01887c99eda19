"""The nodes of the fleet as jobs see them: calls go out through the pipeline of all requests, as their tenant's. IO: dispatch.

A call of a job is sent once: what comes of it is for the runner to judge, which knows the shard and the rows. It takes no kept answer and
leaves none. Where the router asks for keys, it is held to the limits of one of its tenant's and counted as that one's use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.adverts import Scheduling
from capamesh.protocol.errors import CapameshError, NoEndpoint, TooManyRequests, Unsatisfiable
from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tasks import EMBEDDING, INPUT_SPECS, Task
from capamesh.router.access.keys import Verb
from capamesh.router.admission.saturation import STALE_S, is_open
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.jobs.running.nodes import Crowd, Ended, Hosting, Nodes, Started
from capamesh.router.requests.call import Call, Responder, RoutingOptions
from capamesh.router.rules.constraints import Constraints

if TYPE_CHECKING:
    from capamesh.router.access.keys import Key, KeyRing
    from capamesh.router.balancing.attempt import Attempt
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.jobs.running.nodes import BulkCall, OnEnd
    from capamesh.router.jobs.values import Job, Pinned
    from capamesh.router.requests.call import Handle, Outcome
    from capamesh.router.requests.metered import Meter
    from capamesh.router.requests.pipeline import Pipeline

POLICY: Final = "least-request"
"""The policy of calls of jobs: all nodes are kept equally busy, whatever is the model's policy for people's requests."""
MOST_KEPT: Final = 1024
"""The most tenants and models whose keys are kept at hand (guess)."""
LONG_WAIT_S: Final = 120.0
"""A limit of a key that is not over sooner is that of its month; the others wait for seconds."""


class FleetNodes(Nodes):
    """The nodes that one router knows."""

    def __init__(
        self,
        fleet: FleetView,
        balancer: Balancer,
        pipeline: Pipeline,
        ring: KeyRing,
        meter: Meter | None,
        *,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is that of the pipeline's deadlines."""
        self._fleet = fleet
        self._balancer = balancer
        self._pipeline = pipeline
        self._ring = ring
        self._meter = meter
        self._clock = clock
        self._peers: dict[tuple[str, Pinned], frozenset[PeerId]] = {}
        """The nodes that have the very file of a pin, where others have the version with another one."""
        self._keys: dict[tuple[str, str], tuple[Key, ...]] = {}
        """The keys by tenant and model, until the ring has others."""
        ring.on_change(self._keys.clear)

    @override
    def hosting(self, pinned: Pinned, model: str) -> Hosting | None:
        offers = self._fleet.hosted(ModelName(model), pinned.version).offers
        own = {peer: offer for peer, offer in offers.items() if offer.digest == pinned.digest}
        if len(own) < len(offers) and own:
            self._peers[model, pinned] = frozenset(own)
        else:
            self._peers.pop((model, pinned), None)
        if not own:
            return None
        timed = [offer for offer in own.values() if offer.row_us > 0]
        best = min(timed, key=lambda each: each.row_us) if timed else next(iter(own.values()))
        limits = [offer.max_rows for offer in own.values() if offer.max_rows]
        is_sequence = best.scheduling is Scheduling.SEQUENCE
        return Hosting(
            {spec.name: spec for spec in best.inputs},
            best.outputs,
            frozenset(own),
            best.best_rows,
            best.row_us / 1e6,
            max((offer.row_us for offer in timed), default=0) / 1e6,
            min(limits, default=0),
            f"model {model!r} keeps a state from one request to the next, and rows of a job have no order"
            if is_sequence
            else "",
            {spec.name: spec for spec in INPUT_SPECS[best.task]},
            (EMBEDDING,) if best.task is Task.TEXT_EMBEDDING else (),
        )

    @override
    def absence(self, pinned: Pinned, model: str) -> str:
        name = ModelName(model)
        if self._fleet.has(name, pinned.version):
            return (
                f"version {pinned.version} of model {model!r} is hosted with another content than the job was submitted for,"
                f" which was {pinned.digest}; host that again, or submit a new job"
            )
        return not_hosted(self._fleet, name, pinned.version).message

    @override
    def start(self, call: BulkCall, on_end: OnEnd) -> Started:
        spec = call.job.spec
        name = ModelName(spec.model)
        peers = self._peers.get((spec.model, call.job.pinned))
        if call.only_at:
            peers = frozenset((PeerId(call.only_at),))
        constraints = Constraints(
            math.inf if spec.max_price is None else spec.max_price,
            frozenset(spec.regions) if spec.regions else None,
            peers=peers,
            not_at=frozenset(map(PeerId, call.not_at)),
        )
        request = InferCall(
            name,
            call.job.pinned.version,
            call.inputs,
            call.outputs,
            priority=spec.priority,
            is_bulk=True,
            classes=call.classes,
            is_alone=bool(call.only_at),
        )
        options = RoutingOptions(
            constraints, policy=POLICY, tenant=call.job.tenant, may_be_kept=False
        )
        started = _StartedCall(on_end, lambda: self._fits_nobody(call.job, constraints))
        try:
            started.start(self, Call(request, options, self._clock() + call.allowed_s))
        except CapameshError as error:
            started.fail(error)
        return started

    def _fits_nobody(self, job: Job, constraints: Constraints) -> bool:
        """Return whether nodes host what a job runs, and none of them may run it, as it or the operator asks."""
        name, version = ModelName(job.spec.model), job.pinned.version
        replicas = self._fleet.replicas(name, version)
        if not replicas:
            return False
        asked = self._balancer.served(name, version).rules.constraints.both(constraints)
        return not any(asked.are_met_by(each.advert, each.endpoint.address) for each in replicas)

    def send(self, call: Call, responder: Responder) -> Handle:
        """Send a call as its tenant's. Raises what the pipeline raises, and `TooManyRequests`."""
        meter = self._meter
        keys = () if meter is None else self._keys_of(call.options.tenant, call.request.model)
        if (
            meter is None or not keys
        ):  # the operator's, or that of a tenant whose keys are gone: a job outlives them
            return self._pipeline.start(call, responder)
        for key in keys[:-1]:
            try:
                return meter.start(call, key, responder)
            except TooManyRequests as error:
                if error.retry_after_s < LONG_WAIT_S:
                    raise
        return meter.start(call, keys[-1], responder)

    def _keys_of(self, tenant: str, model: str) -> tuple[Key, ...]:
        """Return the keys of a tenant by which its jobs may run a model, always in the same order."""
        found = self._keys.get((tenant, model))
        if found is None:
            fitting = [
                key
                for key in self._ring.keys
                if key.tenant == tenant and key.may(Verb.JOBS) and key.is_for(model)
            ]
            found = tuple(sorted(fitting, key=lambda key: key.id))
            if len(self._keys) >= MOST_KEPT:
                self._keys.clear()
            self._keys[tenant, model] = found
        return found

    @override
    def room(self, pinned: Pinned, model: str, rows: int) -> int:
        try:
            served = self._balancer.served(ModelName(model), pinned.version)
        except CapameshError:
            return 0
        room_rows = served.admission.bulk_room(served.replicas, self._clock())
        return -(-room_rows // max(1, rows))

    @override
    def crowds(self, pinned: Pinned, model: str) -> dict[str, Crowd]:
        now_s = self._clock()
        found: dict[str, Crowd] = {}
        for replica in self._open(model, pinned.version):
            if now_s - replica.load_s >= STALE_S:
                continue
            load, node = replica.load, replica.endpoint.peer
            delay_s, is_calm = load.online_queue_us / 1e6, not load.bulk_in_flight
            other = found.get(node)  # a node may have several devices
            if other is not None:
                delay_s, is_calm = max(delay_s, other.delay_s), is_calm and other.is_calm
            found[node] = Crowd(delay_s, is_calm)
        return found

    @override
    def word_of(self, node: str) -> tuple[int, int] | None:
        advert = self._fleet.adverts.get(PeerId(node))
        return None if advert is None else (advert.sequence.boot_ns, advert.sequence.counter)

    @override
    def idle_rows_per_s(self, model: str, version: str) -> float | None:
        open_replicas = self._open(model, ModelVersion(version))
        if not open_replicas:
            return None
        rows_per_s = 0.0
        for replica in open_replicas:
            load = replica.load
            if replica.offer.row_us > 0:
                # what queues for people is work that a job does not get
                waits_s = min(1.0, load.online_queue_us / 1e6)
                rows_per_s += 1e6 / replica.offer.row_us * (1.0 - waits_s)
        return rows_per_s or None

    def _open(self, model: str, version: ModelVersion) -> list[Replica]:
        now_s = self._clock()
        replicas = self._fleet.replicas(ModelName(model), version)
        return [replica for replica in replicas if is_open(replica, now_s)]


class _StartedCall(Responder, Started):
    """A call on its way, whose end is told once."""

    def __init__(self, on_end: OnEnd, fits_nobody: Callable[[], bool]) -> None:
        """`fits_nobody` tells whether no node may have it, whoever can be reached."""
        self._on_end: OnEnd | None = on_end
        self._fits_nobody = fits_nobody
        self._handle: Handle | None = None

    def start(self, nodes: FleetNodes, call: Call) -> None:
        """Send the call."""
        handle = nodes.send(call, self)
        self._handle = handle

    @property
    @override
    def place(self) -> str:
        attempt = self._last()
        return "" if attempt is None else repr(attempt.replica.endpoint)

    @property
    @override
    def node(self) -> str:
        attempt = self._last()
        return "" if attempt is None else attempt.replica.endpoint.peer

    @override
    def complete(self, outcome: Outcome) -> None:
        replica = outcome.replica
        name = outcome.peer if replica is None else _name_of(replica)
        price = 0.0 if replica is None else replica.advert.price_per_million
        self._end(Ended(outcome.answer, None, outcome.peer, name, price_per_million=price))

    @override
    def fail(self, error: CapameshError) -> None:
        attempt = self._last()
        if attempt is None and isinstance(error, NoEndpoint) and self._fits_nobody():
            error = Unsatisfiable(error.message)
        is_over_quota = isinstance(error, TooManyRequests) and error.retry_after_s >= LONG_WAIT_S
        if attempt is None:
            self._end(Ended(None, error, is_over_quota=is_over_quota))
        else:
            peer = attempt.replica.endpoint.peer
            self._end(Ended(None, error, peer, _name_of(attempt.replica), is_over_quota))

    @override
    def cancel(self) -> None:
        self._on_end = None
        if self._handle is not None:
            self._handle.cancel()

    def _end(self, ended: Ended) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(ended)

    def _last(self) -> Attempt | None:
        """Return the last attempt of which a byte was sent; None: there is none."""
        picker = None if self._handle is None else self._handle.picker
        attempts: list[Attempt] = [] if picker is None else picker.attempts
        return next((each for each in reversed(attempts) if not each.is_unsent), None)


def _name_of(replica: Replica) -> str:
    return replica.advert.name or replica.endpoint.peer
