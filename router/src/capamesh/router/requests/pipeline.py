"""The way of one request through the router, from the call to the nodes that are asked. IO: dispatch.

load       a model that is away for want of memory is waited for until a node has loaded it (`cold_starts`)
version    which version the call goes to, by who serves it, weights and trust (`versions`)
cache      whether an equal call was answered before, or is under way (`answer_cache`)
admission  whether there is room for one more of its tenant and class (`admission`)
attempts   which nodes are asked, one after the other or at once, and who answers (`dispatch`)
mirror     whether a shadow version gets a copy (`mirror`)
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    PeerError,
    RequestKills,
    is_refusal,
)
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, InferCall
from capamesh.protocol.tasks import GENERATION, Task
from capamesh.protocol.tensors import Datatype
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.balancing.picking import OtherVersions
from capamesh.router.cache.store import Store
from capamesh.router.policies.request_shape import RequestShape
from capamesh.router.requests.answer_cache import AnswerCache, CachedRun
from capamesh.router.requests.cold_starts import ColdStarts
from capamesh.router.requests.generation.asked import owned
from capamesh.router.requests.mirror import Copies
from capamesh.router.rules.model_rules import DEFAULT_POLICY

if TYPE_CHECKING:
    from capamesh.router.admission.controller import Permit
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.replica import Replica
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.call import Call, Handle, Responder, RoutingOptions
    from capamesh.router.requests.dispatch import Dispatch
    from capamesh.router.requests.models import RoutedModels
    from capamesh.router.timers import Timers

AFFINITY = "affinity"
PREFIX = "prefix"
"""The policy of requests that must meet at one node."""


class Pipeline:
    """Sends the calls of one router on their way."""

    def __init__(
        self,
        fleet: FleetView,
        balancer: Balancer,
        dispatch: Dispatch,
        models: RoutedModels,
        *,
        rng: random.Random,
        clock: Callable[[], float],
        timers: Timers,
        cache_bytes: int,
    ) -> None:
        """`cache_bytes` is the most memory for kept answers."""
        self._fleet = fleet
        self._balancer = balancer
        self._dispatch = dispatch
        self._models = models
        self._rng = rng
        self._clock = clock
        self.copies = Copies(self.start)
        self.cache = AnswerCache(Store(cache_bytes), fleet, self.start, clock=clock, timers=timers)
        self.cold = ColdStarts(
            fleet,
            clock=clock,
            timers=timers,
            start=lambda call, responder: self.start(call, responder, is_cold=True),
        )

    @override
    def __repr__(self) -> str:
        return f"Pipeline({len(self.copies)} copies under way, {self.cold!r})"

    def start(self, call: Call, responder: Responder, *, is_cold: bool = False) -> Handle:
        """Send a call on its way; `responder` is told what came of it, maybe before this returns.

        `is_cold` is a call that has waited for a node to load the model, and does not wait again.

        Raises:
            ModelNotFound: nobody hosts the model, or the version.
            InvalidRequest: the version has not all the outputs that the call names.
            Overloaded: there is no room for the call.
        """
        request, options = call.request, call.options
        name, sequence, may_wait = request.model, request.sequence, not (is_cold or call.is_copy)

        # load
        if (
            may_wait
            and name in self._fleet.absent.unloaded_nodes
            and self.cold.is_wanting(name, request.version)
        ):
            with contextlib.suppress(CapameshError):
                return self.cold.begin(call, responder, NoEndpoint(""))

        try:
            # version
            model = self._models.of(name)
            key = options.affinity if sequence is None else call.key
            now_s = self._clock()
            home = None if sequence is None else self._dispatch.sequences.home(request)
            if home is not None:
                served = self._balancer.served(name, home.offer.version)
            else:
                served = model.versions.pick(request.version, key, options.constraints, now_s)
            if request.outputs:
                _check_outputs(request, served)
            if request.inputs and request.inputs[0].name == GENERATION:
                call = self._owned(call, served)

            # cache; the responder of a call that is on its way past it is a run already
            rule = served.rules.cache
            run: CachedRun | None = None
            if rule is not None and not call.is_copy and not isinstance(responder, CachedRun):
                found = self.cache.ask(call, served, rule, responder, now_s)
                if isinstance(found, CachedRun) and not found.is_looked_up:
                    run = found
                elif found is not None:
                    return found

            # attempts; they may change to another version, at the permit of this one: it is no second request
            others = model.versions if not request.version and sequence is None else None
            trial = model.versions.trial(served) if others is not None and not key else None
            bulk_rows = 0 if call.is_copy or not request.is_bulk else _rows_of(request)
            permit: Permit | None = None
            try:
                permit = served.admission.admit(
                    served.hosted.replicas,
                    options.tenant or options.share,
                    request.priority,
                    bulk_rows,
                    now_s,
                    call.deadline_s - now_s,
                )
                picker = self._picker(call, key, served, others, trial, bulk_rows, home)
                recover = self._recover if may_wait else None
                handle: Handle = self._dispatch.start(
                    call, picker, responder if run is None else run, permit, recover
                )
            except BaseException:
                if permit is not None:
                    permit.release(now_s)
                if run is not None:
                    run.close()
                raise
            if run is not None:
                run.began(handle)
                handle = run
        except (ModelNotFound, ModelUnavailable, NoEndpoint) as error:
            if not may_wait:
                raise
            missing = error.with_traceback(None)
            return self.cold.begin(call, responder, missing)

        # mirror; the shadow's own calls, as a copy is one, are not mirrored
        mirror = model.mirror
        if mirror is not None and mirror.wants(self._rng, served=served.version, key=key):
            self.copies.send(call, mirror)
        return handle

    def _owned(self, call: Call, served: ServedModel) -> Call:
        """Return a call with whose it is, if `served` is a language model: no client says that himself. Raises `InvalidRequest`."""
        request, options = call.request, call.options
        inputs = request.inputs
        offer = self._fleet.offer(request.model, served.version)
        is_one = inputs[0].datatype is Datatype.BYTES and inputs[0].shape == (1,)
        if not is_one or (offer is not None and offer.task is not Task.CHAT):
            return call
        asked = owned(inputs[0], options.tenant, options.share)
        return call.replace(request=request.replace(inputs=(asked, *inputs[1:])))

    def _picker(
        self,
        call: Call,
        key: str,
        served: ServedModel,
        others: OtherVersions | None,
        trial: ServedModel | None,
        bulk_rows: int,
        home: Replica | None,
    ) -> RequestPicker:
        """Return what picks the nodes for a call: `home`, or the first of `trial` if there is one, then of `served` or `others`.

        `bulk_rows` and `home`: see `RequestShape`.
        """
        request, options = call.request, call.options
        size_bytes = 0
        for tensor in request.inputs:
            size_bytes += len(tensor.data)
        is_pinned = request.sequence is not None
        is_urgent = request.priority < DEFAULT_PRIORITY and not request.is_bulk
        shape = RequestShape(
            request.model,
            served.version,
            size_bytes,
            key,
            is_pinned,
            is_urgent,
            bulk_rows,
            home,
            options.beginnings,
        )
        policy = AFFINITY if is_pinned else options.policy
        if key and not policy:
            policy = policy_of(options, served.rules.policy, key)
        return RequestPicker(
            served,
            options.constraints,
            shape,
            call.deadline_s,
            policy=policy,
            versions=others,
            trial=trial,
        )

    def _recover(self, call: Call, responder: Responder, error: CapameshError) -> Handle | None:
        """Have a call that has failed wait for another node to load the model; None: it may not, or that does not help."""
        with contextlib.suppress(CapameshError):
            if self._may_go_on(call.request, error):
                return self.cold.begin(call, responder, error, is_tried=True)
        return None

    def _may_go_on(self, request: InferCall, error: CapameshError) -> bool:
        """Return whether a request that has failed may be run by another node, once that has loaded the model."""
        if request.sequence is not None or not isinstance(error, PeerError):
            return False
        if isinstance(error, NoEndpoint):
            self._balancer.missed(request.model, request.version)
        elif isinstance(error, LinkLost | RequestKills):
            return False  # it may be what processes end of
        return self.cold.is_wanting(request.model, request.version) and (
            is_refusal(error)
            or isinstance(error, NoEndpoint)
            or (not request.is_bulk and self._may_repeat(request))
        )

    def _may_repeat(self, request: InferCall) -> bool:
        versions = (request.version,) if request.version else self._fleet.trusted(request.model)
        served_models = [self._balancer.served(request.model, version) for version in versions]
        return all(
            one.rules.is_retried and self._dispatch.idempotency.holds(one) for one in served_models
        )


def policy_of(options: RoutingOptions, usual: str, key: str) -> str:
    """Return the policy of a request whose model has a `usual` one, "" for that, by what it asks for and what it is."""
    if options.policy:
        return options.policy
    if options.beginnings:
        return PREFIX if usual == DEFAULT_POLICY else ""
    return AFFINITY if key else ""


def _rows_of(request: InferCall) -> int:
    """Return the rows of a call of a job, 1 at least: those of its first input, if that has any data."""
    for tensor in request.inputs:
        return tensor.shape[0] if tensor.shape and len(tensor.data) else 1
    return 1


def _check_outputs(request: InferCall, served: ServedModel) -> None:
    """Raise `InvalidRequest` when no replica of the version has all the outputs that a request names."""
    missing = ""
    for replica in served.replicas:
        form = replica.answer_form()
        lacking = form.lacks(request.outputs)
        if not lacking:
            return
        missing = missing or (
            f"model {request.model!r} version {served.version} has no output {lacking[:80]!r}; its outputs are"
            f" {form.names()}"
        )
    if missing:
        raise InvalidRequest(missing)
