"""Slots whose runs are marked and counted: which model runs when the process dies, and how long runs take. IO: shared memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from capamesh.node.devices.in_flight_journal import InFlightJournal, Phase
from capamesh.node.generation import Slots
from capamesh.node.generation.slots import CacheBlock, Logits

if TYPE_CHECKING:
    from capamesh.node.scheduling.stats import Meter


class WatchedSlots(Slots):
    """The slots of a model whose number is known to the in-flight journal. The thread of generation uses it."""

    def __init__(
        self,
        slots: Slots,
        meter: Meter,
        marks: InFlightJournal,
        number: int,
        clock: Callable[[], float],
    ) -> None:
        """Each run is told to `meter` as a batch whose rows are its tokens; `clock` is in seconds."""
        self.count = slots.count
        self.length = slots.length
        self.token_bytes = slots.token_bytes
        self.vocabulary = slots.vocabulary
        self.scores_each = slots.scores_each
        self.most_replayed = slots.most_replayed
        self._slots = slots
        self._meter = meter
        self._marks = marks
        self._number = number
        self._clock = clock

    @override
    def decode(self, tokens: Sequence[int]) -> Logits:
        began_s = self._clock()
        mark = self._marks.begin(self._number, Phase.RUNNING)
        try:
            return self._slots.decode(tokens)
        finally:
            self._marks.end(mark)
            self._meter.ran(len(tokens), self._clock() - began_s)

    @override
    def extend(self, slot: int, tokens: Sequence[int], *, wants_logits: bool) -> Logits | None:
        began_s = self._clock()
        mark = self._marks.begin(self._number, Phase.RUNNING)
        try:
            return self._slots.extend(slot, tokens, wants_logits=wants_logits)
        finally:
            self._marks.end(mark)
            self._meter.ran(len(tokens), self._clock() - began_s)

    @override
    def replay(
        self, pieces: Sequence[tuple[int, Sequence[int]]], *, wants_logits: bool
    ) -> Logits | None:
        began_s = self._clock()
        mark = self._marks.begin(self._number, Phase.RUNNING)
        try:
            return self._slots.replay(pieces, wants_logits=wants_logits)
        finally:
            self._marks.end(mark)
            rows = sum(len(tokens) for _, tokens in pieces)
            self._meter.ran(rows, self._clock() - began_s)

    @override
    def score(self, slot: int, tokens: Sequence[int]) -> Logits:
        began_s = self._clock()
        mark = self._marks.begin(self._number, Phase.RUNNING)
        try:
            return self._slots.score(slot, tokens)
        finally:
            self._marks.end(mark)
            self._meter.ran(len(tokens), self._clock() - began_s)

    @override
    def copy(self, source: int, target: int, count: int) -> None:
        self._slots.copy(source, target, count)

    @override
    def truncate(self, slot: int, count: int) -> None:
        self._slots.truncate(slot, count)

    @override
    def used(self, slot: int) -> int:
        return self._slots.used(slot)

    @override
    def save(self, slot: int, start: int, stop: int) -> CacheBlock:
        return self._slots.save(slot, start, stop)

    @override
    def load(self, slot: int, block: CacheBlock, count: int) -> None:
        self._slots.load(slot, block, count)

    @override
    def close(self) -> None:
        self._slots.close()
