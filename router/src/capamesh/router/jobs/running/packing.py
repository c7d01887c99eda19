"""Packs the rows of a shard into full batches, over the ends of windows; rows of one shape, and of one form of requests, together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import numpy as np

from capamesh.router.jobs.inputs.row_numbers import joined_names, joined_numbers
from capamesh.router.jobs.inputs.rows import RowBatch, part_of, pieces_of, size_of
from capamesh.router.jobs.row_forms import RowForm

PACKED_BYTES: Final = 16 * 2**20
"""The most bytes of rows that wait for others of their shape; the most numerous of them go as they are then (guess)."""

_Layout: TypeAlias = tuple[RowForm | None, tuple[tuple[str, tuple[int, ...]], ...]]


class _Held:
    """Rows of one layout that do not fill a batch yet."""

    __slots__ = ("batches", "rows", "size_bytes")

    def __init__(self) -> None:
        self.batches: list[RowBatch] = []
        self.rows = 0
        self.size_bytes = 0


class Packer:
    """The rows of one shard on their way into batches."""

    def __init__(
        self,
        rows: Callable[[], int],
        most_rows: Callable[[], int] = lambda: 1,
        most_bytes: int = PACKED_BYTES,
    ) -> None:
        """`rows` returns the rows of a full batch, and `most_rows` how many several may have that go together, as they lie.

        Both may be others for the next one.
        """
        self._full = rows
        self._most = most_rows
        self._most_bytes = most_bytes
        self._held: dict[_Layout, _Held] = {}
        self.held_bytes = 0
        """The bytes of the rows that wait."""

    def add(self, batch: RowBatch) -> Iterator[RowBatch]:
        """Take rows and yield those that fill batches, as views of them where nothing waited; it is to be exhausted."""
        shapes = tuple((name, each.shape[1:]) for name, each in batch.inputs.items())
        layout = batch.form, shapes
        held = self._held.get(layout)
        first = 0
        if held is not None:
            full = self._full()
            first = max(0, min(full - held.rows, batch.rows))
            self._hold(held, part_of(batch, 0, first))
            if held.rows >= full:
                yield from pieces_of(self._drop(layout))
        while batch.rows - first >= (full := max(1, self._full())):
            many = min(batch.rows - first, max(full, self._most())) // full
            yield from pieces_of(part_of(batch, first, first + many * full))
            first += many * full
        if first < batch.rows:
            self._hold(self._held.setdefault(layout, _Held()), part_of(batch, first, None))
        while self.held_bytes > self._most_bytes:
            largest = max(self._held, key=lambda each: self._held[each].size_bytes)
            yield from pieces_of(self._drop(largest))

    def rest(self) -> Iterator[RowBatch]:
        """Yield what is left when there are no more rows."""
        for layout in list(self._held):
            yield from pieces_of(self._drop(layout))

    def _hold(self, held: _Held, batch: RowBatch) -> None:
        held.batches.append(batch)
        held.rows += batch.rows
        size_bytes = size_of(batch)
        held.size_bytes += size_bytes
        self.held_bytes += size_bytes

    def _drop(self, layout: _Layout) -> RowBatch:
        held = self._held.pop(layout)
        self.held_bytes -= held.size_bytes
        if len(held.batches) == 1:
            return held.batches[0]
        return RowBatch(
            joined_numbers([each.numbers for each in held.batches]),
            joined_names([each.ids for each in held.batches]),
            {
                name: np.concatenate([each.inputs[name] for each in held.batches])
                for name in held.batches[0].inputs
            },
            [place for each in held.batches for place in each.places],
            layout[0],
        )
