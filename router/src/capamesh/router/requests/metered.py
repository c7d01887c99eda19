"""A call with a key: it is held to the key's limits, and what it uses is counted. Pure.

It is the layer above the pipeline, and stands in for it where a router asks for keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.errors import ProtocolViolation
from capamesh.protocol.oip import has_batch_axis
from capamesh.protocol.tasks import GENERATION
from capamesh.router.access.keys import OPERATOR
from capamesh.router.requests.call import Handle, Responder
from capamesh.router.requests.generation.asked import BYTES_A_TOKEN, MOST_CHOICES
from capamesh.router.requests.generation.parts import Progress, read_pieces

if TYPE_CHECKING:
    from capamesh.protocol.errors import CapameshError
    from capamesh.protocol.ids import ModelName, ModelVersion
    from capamesh.protocol.links.calls import InferAnswer, InferCall
    from capamesh.router.access.keys import Key
    from capamesh.router.access.quotas import Lease, Quotas
    from capamesh.router.balancing.picker import RequestPicker
    from capamesh.router.fleet.view import FleetView
    from capamesh.router.requests.call import Call, Outcome, Part
    from capamesh.router.requests.pipeline import Pipeline

MOST_MODELS: Final = 10_000
"""The most versions of models of which it is remembered whether they have rows (guess: more than a router serves)."""
REMEMBERED_S: Final = 1.0
"""Seconds for which that is remembered (guess: what a version takes does not change, but for the first node that hosts it)."""


class MeteredCall(Responder, Handle):
    """One call under way: it passes on what it is told, and settles with the quotas."""

    __slots__ = ("_handle", "_is_over", "_lease", "_progress", "_responder", "_size_bytes")

    def __init__(
        self, lease: Lease, responder: Responder, progress: Progress | None = None
    ) -> None:
        """`progress` is that of an answer which is generated: its tokens are paid for; None: rows are."""
        self._lease = lease
        self._responder = responder
        self._progress = progress
        self._handle: Handle | None = None
        self._is_over = False
        self._size_bytes: int | None = None
        """The bytes of the parts that have come; None: none has."""

    def start(self, pipeline: Pipeline, call: Call) -> None:
        """Send the call on its way; what keeps it from that is raised, and counts as no use."""
        try:
            handle = pipeline.start(call, self)
        except BaseException:
            self._lease.settle()
            raise
        if not self._is_over:
            self._handle = handle

    @property
    @override
    def picker(self) -> RequestPicker | None:
        return None if self._handle is None else self._handle.picker

    @override
    def take_part(self, part: Part) -> None:
        size_bytes = self._size_bytes or 0
        for tensor in part.outcome.answer.outputs:
            size_bytes += len(tensor.data)
        self._size_bytes = size_bytes
        if self._progress is not None:
            _count(self._progress, part.outcome.answer)
        self._responder.take_part(part)

    @override
    def complete(self, outcome: Outcome) -> None:
        self._is_over = True
        size_bytes = self._size_bytes or 0
        for tensor in outcome.answer.outputs:
            size_bytes += len(tensor.data)
        if self._progress is not None:
            _count(self._progress, outcome.answer)
        self._lease.settle(size_bytes, self._used())
        self._responder.complete(outcome)

    @override
    def fail(self, error: CapameshError) -> None:
        self._is_over = True
        self._lease.settle(self._size_bytes, self._used())
        self._responder.fail(error)

    @override
    def cancel(self) -> None:
        self._is_over = True
        self._lease.settle(self._size_bytes, self._used())
        if self._handle is not None:
            self._handle.cancel()

    def _used(self) -> int | None:
        """Return the tokens that have come of an answer that is generated, and of its prompt; None: rows are paid for, or none has come."""
        progress = self._progress
        if progress is None or not progress.has_begun:
            return None
        usage = progress.usage()
        return usage.prompt + usage.completion


def _count(progress: Progress, answer: InferAnswer) -> None:
    """Count the tokens in an answer, or in a part of it; what is wrong with it is for others to say."""
    with contextlib.suppress(ProtocolViolation):
        for piece in read_pieces(answer):
            progress.take(piece)


class Meter:
    """Starts calls with keys."""

    def __init__(
        self, quotas: Quotas, pipeline: Pipeline, fleet: FleetView, *, clock: Callable[[], float]
    ) -> None:
        """`clock` is in seconds and never goes back."""
        self._quotas = quotas
        self._pipeline = pipeline
        self._fleet = fleet
        self._clock = clock
        self._batched: dict[tuple[ModelName, ModelVersion], tuple[float, bool]] = {}
        """The versions that were asked for: until when it is remembered of each, and whether the first axis of its tensors counts rows."""

    def start(self, call: Call, key: Key, responder: Responder) -> Handle:
        """Send a call on its way as the pipeline does; raises `TooManyRequests`, too."""
        if key is OPERATOR:
            return self._pipeline.start(call, responder)
        request = call.request
        size_bytes = 0
        for tensor in request.inputs:
            size_bytes += len(tensor.data)
        now_s = self._clock()
        progress: Progress | None = None
        if request.inputs and request.inputs[0].name == GENERATION:
            progress = Progress(MOST_CHOICES, size_bytes)
            rows = size_bytes // BYTES_A_TOKEN
        else:
            rows = self._rows_of(request, now_s)
        lease = self._quotas.admit(key, request.model, rows, size_bytes, now_s)
        metered = MeteredCall(lease, responder, progress)
        metered.start(self._pipeline, call)
        return metered

    def lease(self, key: Key, model: ModelName, rows: int, size_bytes: int) -> Lease | None:
        """Let in a request that is run in parts, which are not let in themselves; None: the operator's, which no limit holds.

        Raises `TooManyRequests`. Whoever gets a lease settles it.
        """
        if key is OPERATOR:
            return None
        return self._quotas.admit(key, model, rows, size_bytes, self._clock())

    def _rows_of(self, request: InferCall, now_s: float) -> int:
        """Return the rows of a request; 1 of a model without rows, or of a shape that no data bounds."""
        first = request.inputs[0] if request.inputs else None
        if first is None or not first.shape or not first.data or first.shape[0] < 1:
            return 1
        version = request.model, request.version
        known = self._batched.get(version)
        if known is None or known[0] < now_s:
            offer = self._fleet.offer(request.model, request.version)
            if offer is None:
                return 1
            if len(self._batched) >= MOST_MODELS:
                self._batched.clear()
            known = now_s + REMEMBERED_S, has_batch_axis(offer.inputs, offer.outputs)
            self._batched[version] = known
        return first.shape[0] if known[1] else 1
