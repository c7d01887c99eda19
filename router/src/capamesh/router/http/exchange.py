"""One inference request, from its body to its reply, however HTTP brought it. No IO of its own.

Each is counted, and ends in exactly one `Reply`, unless whoever asked has left before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from capamesh.protocol.errors import (
    CapameshError,
    LocalError,
    ModelNotFound,
    NoEndpoint,
    PeerError,
    ShutOut,
)
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.oip import (
    HEADER_LENGTH_NAME,
    InferRequest,
    InferResponse,
    RequestForms,
    decode_request_in_steps,
    encode_response_in_steps,
)
from capamesh.router.balancing.eligibility import ANYWHERE, Constraints
from capamesh.router.fleet.endpoint import Endpoint
from capamesh.router.http.errors import error_reply
from capamesh.router.http.packing import LEAST_BYTES, Packer
from capamesh.router.http.replies import JSON, OCTETS, Reply, size_of
from capamesh.router.requests.call import NO_OPTIONS, Call, Responder, RoutingOptions
from capamesh.router.requests.no_endpoint import with_hint
from capamesh.router.requests.parameters import priority_of, sequence_of, time_allowed_s
from capamesh.router.requests.slices import Slices

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.protocol.tensors import Limits
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.call import Handle, Outcome
    from capamesh.router.requests.routing import Routing
    from capamesh.router.requests.slices import Job
    from capamesh.router.telemetry import Telemetry

NODE_HEADER = "X-Capamesh-Node"
"""Names the peer that ran the request."""
EXPLANATION_HEADER = "X-Capamesh-Explanation"
"""Says, as JSON, among whom and why it was chosen, or why nobody was, when X-Capamesh-Explain asks."""
JSON_WEIGHT = 4
"""Bytes that a byte of JSON takes with what is made of it: `0,` becomes an FP64 of 8 bytes."""
_GZIP = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
MAX_HEADER_BYTES = 8_000
"""Of that: aiohttp's client reads 8,190 bytes of a header's line, its name included."""


@dataclass(frozen=True, slots=True)
class InferTarget:
    """What a request's head says: the same for all requests of most clients."""

    model: ModelName
    version: ModelVersion
    """Empty: the newest."""
    header_length: int | None = None
    """The bytes of JSON at the body's start; None: all of it."""
    options: RoutingOptions = NO_OPTIONS
    is_explained: bool = False
    takes_gzip: bool = False
    """The client takes a packed answer."""

    def held_bytes(self, body_bytes: int) -> int:
        """Return how many bytes of memory its request takes with a body of that size."""
        return body_bytes if self.header_length is not None else body_bytes * JSON_WEIGHT


@dataclass(frozen=True, slots=True)
class Inference:
    """What exchanges need."""

    fleet: FleetView
    routing: Routing
    telemetry: Telemetry
    timeout_s: float
    """For requests that name no deadline of their own; none may take longer."""
    limits: Limits
    log: FilteringBoundLogger
    constraints_of: Callable[[ModelName], Constraints] = lambda _: ANYWHERE
    """What the operator's rules ask of who runs a model."""
    redial_s: Callable[[Endpoint], float] = lambda _: 0.0
    """In how long an endpoint without a link is dialled; 0: at once, or unknown."""
    shut_out: Callable[[], str] = lambda: ""
    """Why no node takes anything from this router any more; empty: they do."""
    forms: RequestForms = field(default_factory=RequestForms)
    slices: Slices = field(default_factory=Slices)
    """Long JSON is read and written there."""
    packer: Packer = field(default_factory=Packer)
    """And packed there, for those who take it so."""

    def nobody(self, target: InferTarget, error: NoEndpoint) -> NoEndpoint:
        """Return the error for a request that nobody can be asked to run."""
        fleet, model, version = self.fleet, target.model, target.version
        versions = [version] if version else fleet.versions_ready(model)
        if any(fleet.has_unreached(model, each) for each in versions):
            return error  # more nodes may come, and nobody knows when
        return with_hint(
            error,
            model,
            [replica for each in versions for replica in fleet.replicas(model, each)],
            self.constraints_of(model).both(target.options.constraints),
            redial_s=self.redial_s,
            now_s=time.monotonic(),
        )

    def refused(self, model: ModelName, error: CapameshError) -> None:
        """Count a request that is answered with an error."""
        self.telemetry.refused(model, error, is_known=bool(self.fleet.versions(model)))


class Exchange(Responder):
    """One request."""

    __slots__ = ("_handle", "_inference", "_job", "_on_reply", "_request", "_started_s", "_target")

    def __init__(
        self, inference: Inference, target: InferTarget, on_reply: Callable[[Reply], None]
    ) -> None:
        """`on_reply` is told once, maybe before `begin` returns, and must not raise."""
        self._inference = inference
        self._target = target
        self._on_reply: Callable[[Reply], None] | None = on_reply
        """None: it is over."""
        self._handle: Handle | None = None
        self._request: InferRequest | None = None
        self._job: Job[Any] | None = None
        """What is under way here: long JSON, read or written."""
        self._started_s = time.monotonic()

    def begin(self, body: bytes | memoryview) -> None:
        """Read the request and send it on its way: short JSON at once, long in slices."""
        inference, target = self._inference, self._target
        shut_out = inference.shut_out()
        if shut_out:
            self.fail(ShutOut(shut_out))
            return
        known = inference.forms.read(target.model, target.version, body, target.header_length)
        if known is not None:
            self._start(known)
            return
        try:
            steps = decode_request_in_steps(
                target.model, target.version, body, target.header_length, inference.limits
            )
            next(steps)
        except StopIteration as done:
            asked: InferRequest = done.value
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._broke(error)
            return
        else:
            self._job = inference.slices.begin(steps, self._start, self._broke, target.model)
            return
        inference.forms.learn(body, target.header_length, asked)
        self._start(asked)

    def _start(self, asked: InferRequest) -> None:
        """Send it on its way."""
        inference, target = self._inference, self._target
        self._job = None
        self._request = asked
        try:
            parameters = asked.parameters
            request = InferCall(
                target.model,
                target.version,
                asked.inputs,
                tuple([output.name for output in asked.outputs]) if asked.outputs else (),
            )
            allowed_s = inference.timeout_s
            if parameters:
                request = request._replace(
                    priority=priority_of(parameters), sequence=sequence_of(parameters)
                )
                allowed_s = time_allowed_s(parameters, allowed_s)
            deadline_s = self._started_s + allowed_s
            call = Call(request, target.options, deadline_s)
            handle = inference.routing.pipeline.start(call, self)
            if self._on_reply is not None:
                self._handle = handle
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._broke(error)

    def abandon(self) -> None:
        """Whoever asked has left: withdraw it. Does nothing when it is over."""
        self._on_reply = None
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    def complete(self, outcome: Outcome) -> None:
        """Part of `Responder`."""
        asked, answer = self._request, outcome.answer
        assert asked is not None  # noqa: S101 - it was read before it was sent
        try:
            steps = encode_response_in_steps(
                InferResponse(self._target.model, answer.version, asked.id, answer.outputs),
                asked,
                self._inference.limits,
            )
            next(steps)
        except StopIteration as done:
            written: tuple[list[bytes | memoryview], int | None] = done.value
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._broke(error)
            return
        else:
            self._job = self._inference.slices.begin(
                steps,
                lambda done: self._written(outcome, done),
                self._broke,
                self._target.model,
            )
            return
        self._written(outcome, written)

    def _written(
        self, outcome: Outcome, written: tuple[list[bytes | memoryview], int | None]
    ) -> None:
        """Reply with the body that was made of an answer."""
        self._job = None
        inference = self._inference
        try:
            reply = self._reply(outcome, *written)
        except Exception as error:  # noqa: BLE001 - all end in one reply
            self._broke(error)
        else:
            inference.telemetry.answered(self._target.model, time.monotonic() - self._started_s)
            if self._target.takes_gzip and written[1] is None and self._packs(reply):
                return
            self._end(reply)

    def _packs(self, reply: Reply) -> bool:
        """Begin to pack a long answer; return whether it is under way."""
        if sum(map(size_of, reply.buffers)) < LEAST_BYTES:
            return False

        def done(packed: bytes | None) -> None:
            if packed is None:
                self._end(reply)
            else:
                self._end(Reply(reply.status, {**reply.headers, **_GZIP}, (packed,)))

        return self._inference.packer.begin(reply.buffers, done)

    def _broke(self, error: Exception) -> None:
        """End with an error, which only a bug can be if it is none of the network's."""
        self._job = None
        if isinstance(error, CapameshError):
            self.fail(error)
        else:
            self._inference.log.error("request_crashed", model=self._target.model, exc_info=error)
            self._end(_crash())

    def fail(self, error: CapameshError) -> None:
        """Part of `Responder`."""
        shut_out = self._inference.shut_out()
        if shut_out and isinstance(error, PeerError):
            error = ShutOut(shut_out)  # its links were cut while it was under way
        elif isinstance(error, NoEndpoint):
            error = self._inference.nobody(self._target, error)
        self._inference.refused(self._target.model, error)
        reply = error_reply(error)
        if self._target.is_explained:
            reply = reply._replace(headers={**reply.headers, **self._why_failed()})
        self._end(reply)

    def _why_failed(self) -> dict[str, str]:
        """Return the header that says who was asked, and how all replicas look now; none where nobody hosts the model."""
        target, handle = self._target, self._handle
        try:
            if handle is not None and handle.picker is not None:
                explanation = handle.picker.explain(time.monotonic())
            else:  # it was refused, or there was nobody to ask, at once
                explanation = self._inference.routing.explain(
                    target.model, target.version, target.options, is_let_in=False
                )
        except ModelNotFound:
            return {}
        except Exception:
            self._inference.log.exception("explanation_crashed", model=target.model)
            return {}
        return {EXPLANATION_HEADER: _shortened(explanation.to_json())}

    def _reply(
        self, outcome: Outcome, buffers: list[bytes | memoryview], json_bytes: int | None
    ) -> Reply:
        target = self._target
        headers = {
            "Content-Type": JSON if json_bytes is None else OCTETS,
            NODE_HEADER: outcome.replica.endpoint.peer,
        }
        if json_bytes is not None:
            headers[HEADER_LENGTH_NAME] = str(json_bytes)
        if target.is_explained:
            headers[EXPLANATION_HEADER] = _shortened(
                outcome.picker.explain(time.monotonic()).to_json()
            )
        return Reply(200, headers, buffers)

    def _end(self, reply: Reply) -> None:
        on_reply, self._on_reply = self._on_reply, None
        self._handle = self._request = None
        if on_reply is not None:
            on_reply(reply)


def _crash() -> Reply:
    return error_reply(LocalError("the router failed on this request; see its log"))


def _shortened(explanation: str) -> str:
    """Return an explanation's JSON with as many of its endpoints, the chosen first, as a header can hold."""
    if len(explanation) <= MAX_HEADER_BYTES:
        return explanation
    body = json.loads(explanation)
    while len(explanation) > MAX_HEADER_BYTES and body["replicas"]:
        body["replicas"].pop()
        explanation = json.dumps(body, separators=(",", ":"))
    return explanation
