"""Encodes calls of which many are alike but for their data and the time left. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from typing_extensions import override

from capamesh.protocol.ids import ModelVersion
from capamesh.protocol.links.calls import DEFAULT_PRIORITY, InferCall, encode_call

if TYPE_CHECKING:
    from capamesh.protocol.links.outgoing import Buffer

MAX_KNOWN_CALLS: Final = 1024
"""The calls that an encoder remembers (guess: the models of a fleet, their usual batch sizes); the oldest makes room."""
MAX_KNOWN_META_BYTES: Final = 1024
"""Longer metadata is written anew each time (guess: ten tensors)."""
_BUDGET_BYTES: Final = 4
_MOST_BUDGET_MS: Final = 2**32 - 1
"""The budget by which a call's metadata is written first: it is last in it, and any other that takes as many bytes fits."""
_ANY: Final = ModelVersion("")


class CallEncoder:
    """Encodes calls to the same meaning as `encode_call`, and remembers how: those for one model differ in little but their data.

    What is remembered is keyed by all that the metadata says but for the time left.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], bytes] = {}
        """The metadata of calls up to the budget, by model, version, outputs, and what is said of each input."""

    @override
    def __repr__(self) -> str:
        return f"CallEncoder({len(self._known)} known)"

    def encode(
        self, call: InferCall, budget_ms: int, version: ModelVersion = _ANY
    ) -> tuple[bytes, list[Buffer]]:
        """Return metadata and body buffers; a `version` goes before the call's own."""
        if (
            call.priority != DEFAULT_PRIORITY
            or call.is_bulk
            or call.sequence is not None
            or call.takes_parts
            or call.classes
            or call.trace
            or call.is_alone
            or not 0 <= budget_ms <= _MOST_BUDGET_MS
        ):
            return encode_call(call, budget_ms, version)
        said: list[object] = [call.model, version or call.version, call.outputs]
        body: list[Buffer] = []
        for tensor in call.inputs:
            data = tensor.data
            size_bytes = data.nbytes if isinstance(data, memoryview) else len(data)
            said += (tensor.name, tensor.datatype, tensor.shape, size_bytes)
            body.append(data)
        key = tuple(said)
        head = self._known.get(key)
        if head is None:
            meta, _ = encode_call(call, _MOST_BUDGET_MS, version)
            head = meta[:-_BUDGET_BYTES]
            if len(meta) <= MAX_KNOWN_META_BYTES:
                known = self._known
                if len(known) >= MAX_KNOWN_CALLS:
                    del known[next(iter(known))]
                known[key] = head
        return head + budget_ms.to_bytes(_BUDGET_BYTES, "big"), body
