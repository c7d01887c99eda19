"""Decodes calls of which many are alike but for their data. Pure."""

from __future__ import annotations

from typing_extensions import override

from capamesh.protocol.links.calls import ControlCall, InferCall, decode_call
from capamesh.protocol.links.tensor_descriptions import Layout, layout_of
from capamesh.protocol.tensors import Limits
from capamesh.protocol.values import Value

MAX_KNOWN_CALLS = 1024
"""Metadata that a decoder remembers (guess: the models of a node, their usual batch sizes and deadlines)."""
MAX_KNOWN_META_BYTES = 1024
"""Longer metadata is read anew each time (guess: ten tensors)."""


class CallDecoder:
    """Decodes calls as `decode_call` does, and remembers how: those for one model differ in little but their data.

    What is remembered is keyed by the whole metadata, so it is as well checked as what is read anew.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, _KnownCall] = {}

    @override
    def __repr__(self) -> str:
        return f"CallDecoder({len(self._known)} known)"

    def decode(self, meta: bytes, body: memoryview) -> tuple[InferCall | ControlCall, int | None]:
        """Return what `decode_call` returns, or raise what it raises."""
        known = self._known.get(meta)
        if known is None or known.layout.body_bytes != len(body):
            call, budget_ms = decode_call(meta, body, self._limits)
            # a trace is of one request alone
            if isinstance(call, InferCall) and not call.trace and len(meta) <= MAX_KNOWN_META_BYTES:
                if len(self._known) >= MAX_KNOWN_CALLS:
                    self._known.clear()
                self._known[meta] = _KnownCall(
                    call.replace(inputs=()), budget_ms, layout_of(call.inputs)
                )
            return call, budget_ms
        call = known.call
        return (
            InferCall(
                call.model,
                call.version,
                known.layout.cut(body, self._limits),
                call.outputs,
                call.priority,
                call.is_bulk,
                call.sequence,
                call.takes_parts,
                call.classes,
                is_alone=call.is_alone,
            ),
            known.budget_ms,
        )


class _KnownCall(Value):
    """The common part of calls with the same metadata."""

    __slots__ = ("budget_ms", "call", "layout")

    def __init__(self, call: InferCall, budget_ms: int | None, layout: Layout) -> None:
        self.call = call
        """The call without its data."""
        self.budget_ms = budget_ms
        self.layout = layout
