"""A request's way through the router: which version, whether it is let in, where it goes, who gets a copy. IO: dispatch.

What belongs to one model is made at its first request and forgotten with the model; what a request asks of its
way beside the call itself are its `RoutingOptions`.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capamesh.protocol.errors import (
    CapameshError,
    InvalidRequest,
    LinkLost,
    ModelNotFound,
    ModelUnavailable,
    NoEndpoint,
    Overloaded,
    PeerError,
    RequestKills,
    is_refusal,
)
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, MAX_PRIORITY, InferCall
from capamesh.router.admission.controller import AdmissionController, Permit
from capamesh.router.admission.shedding import rank_of
from capamesh.router.balancing.eligibility import ANYWHERE, Constraints
from capamesh.router.balancing.picker import RequestPicker
from capamesh.router.policies.policy import RequestShape, unspent
from capamesh.router.requests.cold_starts import ColdStarts
from capamesh.router.requests.dispatch import Awaited
from capamesh.router.requests.traffic import Mirror, VersionSplit
from capamesh.router.requests.versions import Versions

if TYPE_CHECKING:
    from capamesh.protocol.fleet import Change
    from capamesh.protocol.ids import ModelName, ModelVersion, PeerId
    from capamesh.router.balancing.balancer import Balancer
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.balancing.served_model import ServedModel
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.cold_starts import ColdStart
    from capamesh.router.requests.dispatch import Dispatch, InFlightCall, Outcome, Waiter
    from capamesh.router.rules import RoutingRules

EVEN_ODDS = 0.5
"""Where chance decides on a request, who asks whether it would be let in is told what is more likely."""
AFFINITY = "affinity"
"""The policy of requests that must meet at one node."""


@dataclass(frozen=True, slots=True)
class RoutingOptions:
    """What a request asks of its way."""

    constraints: Constraints = ANYWHERE
    policy: str = ""
    """Empty: the model's."""
    affinity: str = ""
    """Requests of one key go to one node where that is possible; "": wherever is best."""
    tenant: str = ""
    """Whose share of the fleet it uses when there is not enough for all."""


NO_OPTIONS = RoutingOptions()


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a request would be let in now."""

    version: ModelVersion
    """Which it would be for."""
    level: float
    """How full the nodes are: 0 is idle, 1 is full."""
    refusal: Overloaded | None
    """How it would be refused; None: it would be let in."""


class _Model:
    """What one model's requests have in common."""

    __slots__ = ("controllers", "mirror", "versions")

    def __init__(self, versions: Versions, mirror: Mirror | None) -> None:
        self.versions = versions
        self.mirror = mirror
        self.controllers: dict[ModelVersion, AdmissionController] = {}


class Passage:
    """A request that was let in, until its outcome: it leaves its controller however it ends. Part of `Waiter`."""

    __slots__ = (
        "_after",
        "_clock",
        "_in_flight",
        "_next",
        "_permit",
        "_waiter",
        "picker",
    )

    def __init__(
        self,
        permit: Permit,
        waiter: Waiter,
        clock: Callable[[], float],
        *,
        after: Callable[[CapameshError], ColdStart | None] | None = None,
    ) -> None:
        """Keep the permit; `after` returns how the request goes on after a failure, None where it does not."""
        self._permit: Permit | None = permit
        self._waiter = waiter
        self._clock = clock
        self._in_flight: InFlightCall | None = None
        self.picker: RequestPicker | None = None
        """Can explain where it went, also when it is over; None: it has not set off."""
        self._after = after
        self._next: ColdStart | None = None
        """How it goes on, since nobody who was there could answer it."""

    def begin(
        self,
        dispatch: Dispatch,
        call: InferCall,
        served: ServedModel,
        picker: RequestPicker,
        deadline_s: float,
        *,
        is_copy: bool,
    ) -> None:
        """Set off; the waiter may be told before this returns."""
        self.picker = picker
        try:
            in_flight = dispatch.start(call, served, picker, deadline_s, self, is_copy=is_copy)
        except BaseException:
            self._leave()
            raise
        if self._permit is not None:
            self._in_flight = in_flight

    def abandon(self) -> None:
        """Nobody waits any more: withdraw what is under way. Does nothing when it is over."""
        in_flight, self._in_flight = self._in_flight, None
        self._after = None
        if in_flight is not None:
            in_flight.abandon()
            self._leave()
        if self._next is not None:
            self._next.abandon()

    def answered(self, outcome: Outcome) -> None:
        """Part of `Waiter`."""
        self._leave()
        self._after = None
        self._waiter.answered(outcome)

    def failed(self, error: CapameshError) -> None:
        """Part of `Waiter`."""
        self._leave(is_served=not isinstance(error, Overloaded))
        after, self._after = self._after, None
        if after is not None:
            self._next = after(error)
        if self._next is None:
            self._waiter.failed(error)

    def _leave(self, *, is_served: bool = True) -> None:
        permit, self._permit, self._in_flight = self._permit, None, None
        if permit is not None:
            permit.release(self._clock(), is_served=is_served)


class _Copy:
    """A copy under way to a shadow version; what becomes of it is nobody's matter. A `Waiter`."""

    __slots__ = ("_copies", "_mirror", "passage")

    def __init__(self, copies: set[_Copy], mirror: Mirror) -> None:
        self._copies = copies
        self._mirror = mirror
        self.passage: Passage | None = None
        copies.add(self)
        mirror.began()

    def answered(self, outcome: Outcome) -> None:
        """Part of `Waiter`."""
        del outcome
        self.end()

    def failed(self, error: CapameshError) -> None:
        """Part of `Waiter`."""
        del error
        self.end()

    def end(self) -> None:
        """Withdraw it if it is still under way."""
        if self in self._copies:
            self._copies.discard(self)
            self._mirror.ended()
        passage, self.passage = self.passage, None
        if passage is not None:
            passage.abandon()


class Routing:
    """All requests of one router."""

    def __init__(
        self,
        fleet: FleetView,
        balancer: Balancer,
        dispatch: Dispatch,
        rules: RoutingRules,
        *,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._balancer = balancer
        self._dispatch = dispatch
        self._rules = rules
        self._rng = rng
        self._clock = clock
        self._models: dict[ModelName, _Model] = {}
        self._copies: set[_Copy] = set()
        self._cold = ColdStarts(fleet, clock=clock)

    def __repr__(self) -> str:
        return f"Routing({len(self._models)} models, {len(self._copies)} copies under way)"

    def start(
        self, call: InferCall, options: RoutingOptions, deadline_s: float, waiter: Waiter
    ) -> Passage | ColdStart:
        """Let a request in and send it to a node, to be answered before `deadline_s` on the clock.

        `waiter` is told what came of it, maybe before this returns. A request for a model that is away for want of
        memory waits for a node to load it, and so does one that those fail which say to have the model ready. Raises
        `ModelNotFound`; `Overloaded` when there is no room for it.
        """

        def start(after: Callable[[CapameshError], ColdStart | None] | None = None) -> Passage:
            return self._start(call, options, deadline_s, waiter, after)

        def after(error: CapameshError) -> ColdStart | None:
            with contextlib.suppress(CapameshError):
                if self._may_go_on(call, error):
                    return self._cold.begin(call, deadline_s, waiter, error, start, is_tried=True)
            return None

        if self._cold.is_wanting(call.model, call.version):
            with contextlib.suppress(CapameshError):
                return self._cold.begin(call, deadline_s, waiter, NoEndpoint(""), start)
        try:
            return start(after)
        except (ModelNotFound, ModelUnavailable, NoEndpoint) as error:
            missing = error.with_traceback(None)
        return self._cold.begin(call, deadline_s, waiter, missing, start)

    def _may_go_on(self, call: InferCall, error: CapameshError) -> bool:
        """Return whether a request that has failed may be run by another node, once that has loaded the model."""
        if call.sequence is not None or not isinstance(error, PeerError):
            return False
        if isinstance(error, NoEndpoint):
            self._balancer.missed(call.model, call.version)
        elif isinstance(error, LinkLost | RequestKills):
            return False  # it may be what processes end of
        return self._cold.is_wanting(call.model, call.version) and (
            is_refusal(error) or isinstance(error, NoEndpoint) or self._may_repeat(call)
        )

    def _may_repeat(self, call: InferCall) -> bool:
        versions = (call.version,) if call.version else self._fleet.trusted(call.model)
        served_models = [self._balancer.served(call.model, version) for version in versions]
        return all(one.is_safe and self._dispatch.is_idempotent(one) for one in served_models)

    def _start(
        self,
        call: InferCall,
        options: RoutingOptions,
        deadline_s: float,
        waiter: Waiter,
        after: Callable[[CapameshError], ColdStart | None] | None = None,
    ) -> Passage:
        model = self._model(call.model)
        key = options.affinity
        if call.sequence is not None:
            key = f"sequence {call.sequence.id}"
        served = model.versions.pick(call.version, key, options.constraints, self._clock())
        if call.outputs:
            _check_outputs(call, served)
        versions = model.versions if not call.version and call.sequence is None else None
        trial = model.versions.trial(served) if versions is not None and not key else None
        if served.version != call.version:
            call = InferCall(
                call.model, served.version, *call[2:]
            )  # `_replace` takes thrice as long
        passage = self._let_in(
            model,
            call,
            served,
            options,
            key,
            deadline_s,
            waiter,
            versions=versions,
            trial=trial,
            after=after,
        )
        mirror = model.mirror
        if mirror is not None and mirror.wants(self._rng, served=served.version, key=key):
            self._copy(call, mirror, options.constraints, key, deadline_s)
        return passage

    async def infer(self, call: InferCall, options: RoutingOptions, deadline_s: float) -> Outcome:
        """Return the answer before `deadline_s` on the clock.

        Raises what `start` raises and what `Dispatch.infer` raises. Cancelling the wait withdraws the request.
        """
        waiter = Awaited()
        passage = self.start(call, options, deadline_s, waiter)
        try:
            return await waiter.future
        finally:
            passage.abandon()
            del passage, waiter  # an error's traceback keeps this frame

    def admission(
        self,
        model: ModelName,
        version: ModelVersion,
        options: RoutingOptions,
        priority: int,
        remaining_s: float,
    ) -> Admission:
        """Return whether a request with so much time left would be let in now; nothing is counted or spent for it.

        Raises `ModelNotFound`.
        """
        state = self._model(model)
        now_s = self._clock()
        served = state.versions.pick(version, options.affinity, options.constraints, now_s)
        controller = self._controller(state, served)
        rank = rank_of(priority, is_bulk=False)
        decision = controller.decide(
            options.tenant, priority, rank, now_s, remaining_s, lambda: EVEN_ODDS
        )
        return Admission(served.version, controller.saturation.level, decision.error)

    def explain(
        self,
        model: ModelName,
        version: ModelVersion,
        options: RoutingOptions,
        remaining_s: float = math.inf,
        *,
        is_let_in: bool = True,
    ) -> Explanation:
        """Return where a request would go now, and why; no later request goes elsewhere for it.

        Nobody is chosen where nobody may have it, nor for one that is not let in. Raises `ModelNotFound`.
        """
        now_s = self._clock()
        versions = self._model(model).versions
        if not version:
            versions.served_models()  # what is made for the first time may keep what it draws
        with contextlib.nullcontext() if version else unspent(self._rng):
            served = versions.pick(version, options.affinity, options.constraints, now_s)
        shape = RequestShape(model, served.version, 0, options.affinity)
        return RequestPicker.foreseen(
            served,
            options.constraints,
            shape,
            now_s + remaining_s,
            now_s,
            policy=options.policy or (AFFINITY if options.affinity else ""),
            is_let_in=is_let_in,
        )

    def take_rules(self, rules: RoutingRules) -> None:
        """Route by other rules from now on; what is under way ends by those that it began with."""
        self._rules = rules
        for name, model in self._models.items():
            rule = rules.of(name)
            model.versions = self._versions(name)
            # the same one goes on, and counts its copies under way
            if model.mirror is None or model.mirror.rule != rule.mirror:
                model.mirror = Mirror(rule.mirror) if rule.mirror is not None else None
            for controller in model.controllers.values():
                controller.reweigh(dict(rule.tenants))
        self._balancer.take_rules()

    def wake(self) -> None:
        """Let who waits for a link look again: others may be asked now."""
        self._balancer.links.linked()
        self._cold.wake()

    def heard(self, changes: Sequence[Change]) -> None:
        """Let who waits look again because nodes came, went or say something else."""
        if changes:
            self._balancer.links.linked()
            self._cold.heard(changes)

    def reached(self, peer: PeerId) -> None:
        """Let who waits for a load look again: a node has a link, of which the balancer knows."""
        self._cold.reached(peer)

    def tick(self) -> None:
        """Forget models and versions that nobody replicas any more; to be called now and then."""
        self._fleet.absent.tick(self._clock())
        for name, model in list(self._models.items()):
            ready = self._fleet.versions_ready(name)
            for version, controller in list(model.controllers.items()):
                if version not in ready and not controller.under_way:
                    del model.controllers[version]
            if not ready and not model.controllers:
                del self._models[name]

    def close(self) -> None:
        """End the copies that are under way."""
        for copy in list(self._copies):
            copy.end()

    @property
    def under_way(self) -> int:
        """Requests that were let in and have not ended."""
        return sum(
            controller.under_way
            for model in self._models.values()
            for controller in model.controllers.values()
        )

    # inside

    def _model(self, name: ModelName) -> _Model:
        model = self._models.get(name)
        if model is None:
            rules = self._rules.of(name)
            mirror = Mirror(rules.mirror) if rules.mirror is not None else None
            model = _Model(self._versions(name), mirror)
            if self._fleet.versions_ready(name):  # else anyone could fill the memory with names
                self._models[name] = model
        return model

    def _versions(self, name: ModelName) -> Versions:
        return Versions(
            name,
            VersionSplit(self._rules.of(name).weights),
            fleet=self._fleet,
            balancer=self._balancer,
            rng=self._rng,
        )

    def _controller(self, model: _Model, served: ServedModel) -> AdmissionController:
        controller = model.controllers.get(served.version)
        if controller is None:
            controller = model.controllers[served.version] = AdmissionController(
                served.model,
                lambda: served.replicas,
                self._rng,
                weights=dict(self._rules.of(served.model).tenants),
            )
        if (
            served.on_refused is None
        ):  # it is new, or was forgotten while requests kept its controller
            served.on_refused = controller.refused
            served.is_full = lambda: controller.is_contested
        return controller

    def _picker(
        self,
        call: InferCall,
        served: ServedModel,
        options: RoutingOptions,
        key: str,
        deadline_s: float,
        versions: Versions | None,
        trial: ServedModel | None,
    ) -> RequestPicker:
        size_bytes = 0
        for tensor in call.inputs:
            size_bytes += len(tensor.data)
        is_pinned = call.sequence is not None
        shape = RequestShape(
            call.model,
            served.version,
            size_bytes,
            key,
            is_pinned,
            call.priority < DEFAULT_PRIORITY and not call.is_bulk,
        )
        policy = options.policy or (AFFINITY if key else "")
        return RequestPicker.of(
            served,
            options.constraints,
            shape,
            deadline_s,
            policy=AFFINITY if is_pinned else policy,
            versions=versions,
            trial=trial,
        )

    def _let_in(
        self,
        model: _Model,
        call: InferCall,
        served: ServedModel,
        options: RoutingOptions,
        key: str,
        deadline_s: float,
        waiter: Waiter,
        *,
        versions: Versions | None = None,
        trial: ServedModel | None = None,
        after: Callable[[CapameshError], ColdStart | None] | None = None,
        is_copy: bool = False,
    ) -> Passage:
        """Begin a request for which there is room; raise `Overloaded` for another.

        It may change to another of `versions` later, at the controller of this one: a second attempt is no second request.
        """
        now_s = self._clock()
        controller = self._controller(model, served)
        permit = controller.admit(
            options.tenant, call.priority, call.is_bulk, now_s, deadline_s - now_s
        )
        try:
            picker = self._picker(call, served, options, key, deadline_s, versions, trial)
        except BaseException:
            permit.release(now_s)
            raise
        passage = Passage(permit, waiter, self._clock, after=after)
        passage.begin(self._dispatch, call, served, picker, deadline_s, is_copy=is_copy)
        return passage

    def _copy(
        self,
        call: InferCall,
        mirror: Mirror,
        constraints: Constraints,
        key: str,
        deadline_s: float,
    ) -> None:
        """Send a copy to the shadow version; nobody waits for it. It goes nowhere that the request may not."""
        copied = call._replace(version=mirror.rule.version, priority=MAX_PRIORITY, is_bulk=True)
        copy = _Copy(self._copies, mirror)
        try:
            served = self._balancer.served(copied.model, copied.version)
            model, options = self._model(copied.model), RoutingOptions(constraints)
            copy.passage = self._let_in(
                model, copied, served, options, key, deadline_s, copy, is_copy=True
            )
        except CapameshError:
            copy.end()  # a copy's failure is nobody's


def _check_outputs(call: InferCall, served: ServedModel) -> None:
    """Raise `InvalidRequest` when no replica of the version has all the outputs that a call names."""
    missing = ""
    for replica in served.replicas:
        form = replica.answer_form()
        lacking = form.lacks(call.outputs)
        if not lacking:
            return
        missing = missing or (
            f"model {call.model!r} version {served.version} has no output {lacking[:80]!r}; its outputs are"
            f" {form.names()}"
        )
    if missing:
        raise InvalidRequest(missing)
