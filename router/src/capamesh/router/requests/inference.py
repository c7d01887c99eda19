"""One inference request, from what was decoded to its answer or its error, whatever protocol brought it. No IO of its own.

A protocol derives from `InferenceRequest`: it decodes what came and calls `submit`, and renders what it is told. Here is
what all protocols have in common: what parameters mean, the deadline, counting, and what to tell of errors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger
from typing_extensions import override

from capamesh.protocol.errors import (
    Cancelled,
    CapameshError,
    InvalidRequest,
    LocalError,
    ModelNotFound,
    NoEndpoint,
    PeerError,
    ShutOut,
)
from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.call_marks import trace_of
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tasks import GENERATION
from capamesh.protocol.tensors import Limits
from capamesh.router.access.keys import OPERATOR, Key, KeyRing, check_request
from capamesh.router.balancing.absence import not_hosted
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.fleet.view import FleetView
from capamesh.router.requests.call import NO_OPTIONS, Call, Responder, RoutingOptions
from capamesh.router.requests.metered import Meter
from capamesh.router.requests.no_endpoint import with_hint
from capamesh.router.requests.own_standing import GOOD_STANDING, OwnStanding
from capamesh.router.requests.parameters import priority_of, sequence_of, time_allowed_s
from capamesh.router.requests.repeated_calls import RepeatedCalls, start_once
from capamesh.router.requests.routing import Routing
from capamesh.router.requests.times import explained_apart, times_of
from capamesh.router.telemetry import HTTP, Telemetry
from capamesh.router.telemetry.ended import EndedRequests
from capamesh.router.telemetry.request_lines import Facts
from capamesh.router.telemetry.tracing import RequestTimes, TraceParent

if TYPE_CHECKING:
    from capamesh.protocol.oip import InferRequest
    from capamesh.router.balancing.explanation import Explanation
    from capamesh.router.requests.call import Handle, Outcome


_NAME: attrgetter[str] = attrgetter("name")
_CLIENT_GONE = Cancelled("its client has left before it was answered")


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a request, beside the tensors: the same for all requests of most clients."""

    model: ModelName
    version: ModelVersion
    """The version; empty: the newest."""
    options: RoutingOptions = NO_OPTIONS
    is_explained: bool = False
    """True if the answer is to say why it came from where it came."""
    parent: TraceParent | None = None
    """The caller's trace; None: it has none."""
    key: Key | None = field(default=None, kw_only=True)
    """The caller's key; None: the router asks for none."""
    idempotency_key: str = field(default="", kw_only=True)
    """The caller's name of the request, by which it is run once however often it is sent; "": none."""
    whole: str = field(default="", kw_only=True)
    """The request of which this one is a part, as a text that another's differs from; "": it is none."""


@dataclass(frozen=True, slots=True)
class InferenceService:
    """The services that all inference requests of one router need."""

    fleet: FleetView
    routing: Routing
    telemetry: Telemetry
    timeout_s: float
    """The time allowed to requests that name no deadline of their own; none may take longer."""
    limits: Limits
    log: FilteringBoundLogger
    redial_s: Callable[[Endpoint], float] = lambda _: 0.0
    """Seconds until an endpoint without a link is dialled; 0: at once, or unknown."""
    standing: OwnStanding = GOOD_STANDING
    ring: KeyRing = field(default_factory=KeyRing)
    """The keys, for which wires ask."""
    meter: Meter | None = None
    """The layer that holds calls to the limits of their keys; None: there are none."""
    repeated: RepeatedCalls = field(kw_only=True)
    """The layer that knows calls with an idempotency key again."""
    ended: EndedRequests | None = None
    """The one who is told of requests that failed or were slow."""
    wire: str = HTTP
    """The name of the wire that brings the requests."""

    def nobody(self, target: Target, error: NoEndpoint) -> NoEndpoint:
        """Return the error for a request that nobody can be asked to run."""
        fleet, model, version = self.fleet, target.model, target.version
        versions = [version] if version else fleet.versions_ready(model)
        if any(fleet.has_unreached(model, each) for each in versions):
            return error  # more nodes may come, and nobody knows when
        return with_hint(
            error,
            model,
            [replica for each in versions for replica in fleet.replicas(model, each)],
            self.routing.constraints(model).both(target.options.constraints),
            redial_s=self.redial_s,
            now_s=self.routing.clock(),
        )

    def refused(self, model: ModelName, error: CapameshError) -> None:
        """Count a request that is answered with an error before it was read, and write it to the access log."""
        self.count_error(model, error)
        access = None if self.ended is None else self.ended.access
        if access is not None and access.wants():
            access.refused(model, error.code, self.wire)

    def count_error(self, model: ModelName, error: CapameshError) -> None:
        """Count a request that is answered with an error, or not at all."""
        self.telemetry.refused(
            model, error, is_known=bool(self.fleet.versions(model)), wire=self.wire
        )


class InferenceRequest(Responder, ABC):
    """One request: it is counted, and ends in one `_render_error` or in what `complete` makes of the outcome, or is cancelled."""

    __slots__ = ("_client", "_handle", "_is_over", "_service", "_started_s", "_target")

    def __init__(self, service: InferenceService, target: Target, client: str = "") -> None:
        """`client` is the site of the address that it came from; empty if that is not known."""
        self._client = client
        self._service = service
        self._target = target
        self._handle: Handle | None = None
        """The call under way; None: it has not set off, or is over."""
        self._is_over = False
        self._started_s = service.routing.clock()

    def submit(
        self, asked: InferRequest, most_s: float = math.inf, *, takes_parts: bool = False
    ) -> None:
        """Send what was decoded on its way; it may take `most_s` from its beginning, and less if its parameters say so.

        `takes_parts` says that `take_part` may be told of parts before the answer, from a model that answers so.
        """
        service, target, key = self._service, self._target, self._target.key
        try:
            request = InferCall(
                target.model,
                target.version,
                asked.inputs,
                tuple(map(_NAME, asked.outputs)),
            )
            allowed_s = min(service.timeout_s, most_s)
            parameters = asked.parameters
            if asked.classes:
                request = request.replace(classes=asked.classes)
            elif takes_parts and self._may_come_in_parts():
                request = request.replace(takes_parts=True)
            parent = target.parent
            if parent is not None and parent.is_sampled:
                request = request.replace(trace=trace_of(parent.trace_id, parent.span_id))
            if parameters:
                request = request.replace(
                    priority=priority_of(parameters), sequence=sequence_of(parameters)
                )
                allowed_s = time_allowed_s(parameters, allowed_s)
            if service.ring.is_required and (
                key is None or request.priority < key.scope.max_priority
            ):
                check_request(key, request.priority)
            options, inputs = target.options, asked.inputs
            if inputs and inputs[0].name == GENERATION and key is None and not options.tenant:
                options = replace(options, share=self._client)
            if target.is_explained:  # of a kept answer there is nothing to explain
                options = replace(options, may_be_kept=False)
            call = Call(request, options, self._started_s + allowed_s)
            if target.idempotency_key:
                name = target.idempotency_key
                handle = start_once(service, key, name, call, self, target.whole)
            elif key is None or service.meter is None:
                handle = service.routing.pipeline.start(call, self)
            else:
                handle = service.meter.start(call, key, self)
            if not self._is_over:
                self._handle = handle
        except Exception as error:  # noqa: BLE001 - all end in one answer
            self.crash(error)

    def _may_come_in_parts(self) -> bool:
        """Return whether the model answers in parts, as far as is known."""
        offer = self._service.fleet.offer(self._target.model, self._target.version)
        return offer is None or offer.max_parts > 0

    def cancel(self) -> None:
        """Withdraw the request, for whoever asked has left. Nothing happens when it is over."""
        if not self._is_over:
            self._count_error(_CLIENT_GONE)
            ended = self._service.ended
            if ended is not None and ended.is_logging:
                self._log(ended, _CLIENT_GONE.code)
        self._is_over = True
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    def crash(self, error: Exception) -> None:
        """End with an error, which only a bug can be if it is none of the network's."""
        if isinstance(error, CapameshError):
            self.fail(self._not_hosted(error) or error)
        else:
            self._service.log.error("request_crashed", model=self._target.model, exc_info=error)
            self._render_error(LocalError("the router failed on this request; see its log"), None)

    def _not_hosted(self, error: CapameshError) -> CapameshError | None:
        """Return that nobody hosts the model, which helps more than what else is wrong with the request; None: somebody does."""
        fleet, target = self._service.fleet, self._target
        hosted = fleet.versions_ready(target.model)
        if (
            not isinstance(error, InvalidRequest)
            or (target.version or fleet.newest(target.model)) in hosted
        ):
            return None
        missing = not_hosted(fleet, target.model, target.version)
        return missing if isinstance(missing, ModelNotFound) else None

    @override
    def fail(self, error: CapameshError) -> None:
        """End with an error, in words for whoever asked."""
        service = self._service
        shut_out = service.standing.shut_out
        if shut_out and isinstance(error, PeerError):
            error = ShutOut(shut_out)  # its links were cut while it was under way
        elif isinstance(error, NoEndpoint):
            error = service.nobody(self._target, error)
        self._count_error(error)
        self._count_failure(error)
        if service.ended is not None:
            service.ended.ended(self._times(error.code, None))
            if service.ended.is_logging:
                self._log(service.ended, error.code)
        self._render_error(error, self._why_failed() if self._target.is_explained else None)

    def count_answer(self, outcome: Outcome) -> None:
        """Count the request as one that was answered well, now."""
        service, target = self._service, self._target
        now_s = service.routing.clock()
        elapsed_s = now_s - self._started_s
        service.telemetry.totals.answered(target.model, service.wire, elapsed_s)
        key = target.key
        if key is not None and key is not OPERATOR:
            service.telemetry.totals.tenant_answered(key.tenant, elapsed_s)
        answer, served = outcome.answer, outcome.picker.served
        hosted = served.hosted  # in place, without a call: each answer comes by here
        if answer.version != served.version:  # one on trial, or one that was asked before
            hosted = service.fleet.hosted(target.model, answer.version)
        counts = hosted.requests
        counts.answered += 1
        counts.answered_s += elapsed_s
        counts.last_s = now_s
        queue_us, run_us, elapsed_us = answer.queue_us, answer.run_us, elapsed_s * 1e6
        if not outcome.attempts:
            counts.kept += 1
            counts.kept_s += elapsed_s
        elif queue_us + run_us > elapsed_us:  # no node can have had more time than there was
            counts.queue_us += elapsed_us
        else:
            counts.queue_us += queue_us
            counts.run_us += run_us
        first = answer.outputs[0] if answer.outputs else None
        # data bounds the rows: a shape alone, such as [1000000, 0], costs nothing to claim
        counts.rows += first.shape[0] if first is not None and first.shape and first.data else 1
        ended = service.ended
        if ended is not None:
            if elapsed_s > ended.slow_s or (target.parent is not None and ended.has_tracer):
                ended.ended(self._times("ok", outcome))
            if ended.is_logging:
                self._log(ended, "ok", outcome)

    def _count_error(self, error: CapameshError) -> None:
        """Count this request as one that is answered with an error, or not at all."""
        service, target = self._service, self._target
        service.count_error(target.model, error)
        key = target.key
        if key is not None and key is not OPERATOR:
            service.telemetry.tenant_refused(key.tenant, error)

    def _count_failure(self, error: CapameshError) -> None:
        """Count a request that failed at nodes, or that none of them could take; what the caller did wrong before is no failure."""
        service, target, handle = self._service, self._target, self._handle
        picker = handle.picker if handle is not None else None
        if picker is not None:
            hosted = picker.served.hosted
        else:
            version = target.version or service.fleet.newest(target.model)
            if not isinstance(error, PeerError) or not service.fleet.has(target.model, version):
                return
            hosted = service.fleet.hosted(target.model, version)
        hosted.requests.failed += 1
        hosted.requests.failed_s += service.routing.clock() - self._started_s

    def _times(self, code: str, outcome: Outcome | None) -> RequestTimes:
        """Return the times of this request, which ends now, and of its attempts."""
        target, handle = self._target, self._handle
        picker = handle.picker if handle is not None else None
        lasted = self._started_s, self._service.routing.clock()
        return times_of(target.model, target.version, target.parent, lasted, code, picker, outcome)

    def _log(self, ended: EndedRequests, code: str, outcome: Outcome | None = None) -> None:
        """Write this request, which ends now, to the logs that want it."""
        access, slow = ended.access, ended.slow
        if access is not None and access.wants():
            access.inference(self._times(code, outcome), self._facts(outcome))
        now_s = self._service.routing.clock()
        if slow is not None and now_s - self._started_s > slow.floor_s:
            handle = self._handle
            picker = handle.picker if handle is not None else None
            if outcome is not None:
                picker = outcome.picker
            limit_s = slow.limit_s(None if picker is None else picker.served)
            if now_s - self._started_s > limit_s and slow.may_write():
                found = self._why_failed() if picker is None else picker.explain(now_s)
                told = {} if found is None else explained_apart(found)
                slow.write(self._times(code, outcome), self._facts(outcome), limit_s, told)

    def _facts(self, outcome: Outcome | None) -> Facts:
        target, asked = self._target, self._read_request()
        key = target.key
        return Facts(
            self._service.wire,
            self._client,
            target.options.tenant,
            "" if key is None else key.id,
            "" if asked is None else asked.id,
            0 if asked is None else sum([len(each.data) for each in asked.inputs]),
            0 if outcome is None else sum([len(each.data) for each in outcome.answer.outputs]),
            "" if outcome is None else outcome.cache,
        )

    def _read_request(self) -> InferRequest | None:
        """Return the request as it was read; None: it was not, or is not kept."""
        return None

    @abstractmethod
    def _render_error(self, error: CapameshError, explanation: Explanation | None) -> None:
        """Tell whoever asked of an error, and who was asked if there is an explanation."""

    def _why_failed(self) -> Explanation | None:
        """Return who was asked, and how all replicas look now; None where nobody hosts the model."""
        service, target, handle = self._service, self._target, self._handle
        try:
            if handle is not None and handle.picker is not None:
                return handle.picker.explain(service.routing.clock())
            # it was refused, or there was nobody to ask, at once
            return service.routing.explain(
                target.model, target.version, target.options, is_let_in=False
            )
        except ModelNotFound:
            return None
        except Exception:
            service.log.exception("explanation_crashed", model=target.model)
            return None
