"""A caller's request at its router: what is asked, and what came of it. Pure; one is made for every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.protocol.ids import ModelName, ModelVersion
from capamesh.protocol.links.calls import InferCall
from capamesh.protocol.tensors import Datatype, Tensor
from capamesh.router.requests.call import Call, Outcome, Responder, RoutingOptions
from capamesh.simulation.errors import InvariantBroken
from capamesh.simulation.results import OK, Recorder

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.simulation.events import Events
    from capamesh.simulation.scenario import RequestKind


class CallForm:
    """The form that all requests of one kind share: one is made of it with a key and a deadline.

    The data are as many bytes as the kind says, rounded up to whole rows of at least a byte, the same for all.
    """

    __slots__ = ("_options", "_request", "kind")

    def __init__(self, kind: RequestKind) -> None:
        self.kind = kind
        sent_bytes = kind.size_bytes - kind.size_bytes // 2
        row_bytes = max(1, -(-sent_bytes // kind.rows))
        data = memoryview(bytes(kind.rows * row_bytes))
        self._request = InferCall(
            ModelName(kind.model),
            ModelVersion(""),
            (Tensor("x", Datatype.UINT8, (kind.rows, row_bytes), data),),
            priority=kind.priority,
            is_bulk=kind.is_bulk,
        )
        self._options = RoutingOptions(tenant=kind.tenant)

    @override
    def __repr__(self) -> str:
        return f"CallForm({self.kind.name!r})"

    def call(self, key: str, now_s: float) -> Call:
        """Return the call of a request that comes now."""
        options = self._options
        if key:
            options = RoutingOptions(affinity=key, tenant=options.tenant)
        return Call(self._request, options, now_s + self.kind.deadline_s)


class SimRequest(Responder):
    """A request that waits for its outcome. Compared by identity."""

    __slots__ = ("_events", "_recorder", "arrived_s", "is_over", "kind")

    def __init__(self, kind: RequestKind, events: Events, recorder: Recorder) -> None:
        self._events = events
        self._recorder = recorder
        self.kind = kind
        self.arrived_s = events.now_s
        self.is_over = False
        recorder.came(kind, events.now_s)

    @override
    def __repr__(self) -> str:
        return f"SimRequest({self.kind.name!r}, came at {self.arrived_s:g} s)"

    @override
    def complete(self, outcome: Outcome) -> None:
        self._end(OK)

    @override
    def fail(self, error: CapameshError) -> None:
        self._end(error.code)

    def _end(self, code: str) -> None:
        if self.is_over:
            raise InvariantBroken(f"{self!r} has a second outcome: {code}")
        self.is_over = True
        self._recorder.ended(self.kind, self.arrived_s, code, self._events.now_s)
