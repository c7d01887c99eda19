"""Runs one bulk request in parts, so that no request of people waits for the whole of it. Pure.

A run that has begun cannot be broken off. While requests come that people wait for, the bulk rows of a run are so few that it
takes little longer than one of theirs; what is left of the request waits in the queue again. Its answer is that of one run.
"""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from capamesh.node.scheduling.pending_request import Parts, PendingRequest, Result
from capamesh.node.scheduling.stacking import stacked
from capamesh.protocol.errors import CapameshError, RunFailed
from capamesh.protocol.tensors import Tensor


class BulkParts(Parts):
    """The parts of one request, of which one runs at a time. Axis 0 of all its tensors is the rows."""

    __slots__ = ("_done_rows", "_inputs", "_outputs")

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = inputs
        self._done_rows = 0
        self._outputs: list[Sequence[Tensor]] = []

    @override
    def __repr__(self) -> str:
        return f"BulkParts({self._done_rows} rows done)"

    @property
    @override
    def is_first(self) -> bool:
        return not self._done_rows

    @override
    def cut(self, request: PendingRequest, rows: int) -> None:
        request.later_rows = request.rows - rows
        request.rows = rows
        request.inputs = self._rows(self._done_rows, rows)

    @override
    def ran(self, request: PendingRequest, outcome: Result) -> Result | None:
        if isinstance(outcome, CapameshError) or (self.is_first and not request.later_rows):
            return outcome
        for output in outcome:
            if output.shape[:1] != (request.rows,):
                return RunFailed(
                    f"output {output.name!r} of shape {list(output.shape)} cannot be joined: {request.rows} rows were"
                    " run and its axis 0 is not their number"
                )
        self._outputs.append(outcome)
        self._done_rows += request.rows
        if not request.later_rows:
            return [stacked(list(parts), 0) for parts in zip(*self._outputs, strict=True)]
        request.rows, request.later_rows = request.later_rows, 0
        request.inputs = self._rows(self._done_rows, request.rows)
        return None

    def _rows(self, first: int, count: int) -> tuple[Tensor, ...]:
        """Return so many rows of each input, as slices of its bytes."""
        cut: list[Tensor] = []
        for tensor in self._inputs:
            data = memoryview(tensor.data)
            row_bytes = len(data) // tensor.shape[0]
            part = data[first * row_bytes : (first + count) * row_bytes]
            cut.append(Tensor(tensor.name, tensor.datatype, (count, *tensor.shape[1:]), part))
        return tuple(cut)
