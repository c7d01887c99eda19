"""The sequences that have slots, and the moves that keep their slots dense. Pure.

Those that generate have the slots 0 to B-1, as a decoding step runs a range of slots. Those whose prompts are being filled have any
slots behind them, and come to the place B once their prompts have run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from typing_extensions import override

from capamesh.node.generation.sequence import Sequence
from capamesh.node.generation.slots import Slots
from capamesh.node.generation.waiting import need

PASSED_PIECES: Final = 2.0
"""The time that shorter prompts have before the oldest gets its next piece, in pieces (guess: a long prompt has a quarter of the model at least)."""


class Residents:
    """The sequences with slots: at most as many as there are."""

    def __init__(self, slots: Slots, piece_s: float) -> None:
        """`piece_s` is the time that a piece of a prompt should take."""
        self._slots = slots
        self._most_passed_s = PASSED_PIECES * piece_s
        self._passed_s = 0.0
        """The time of pieces of other prompts since the last one of the oldest."""
        self.live: list[Sequence] = []
        """The sequences that generate, each in the slot of its place here; some may have ended since the last step."""
        self.filling: list[Sequence] = []
        """The sequences whose prompts are being filled; their siblings wait for them without slots, which are free for them."""

    @override
    def __repr__(self) -> str:
        return f"Residents({len(self.live)} live, {len(self.filling)} filling)"

    def __iter__(self) -> Iterator[Sequence]:
        """Yield those that have slots, and no siblings."""
        yield from self.live
        yield from self.filling

    @property
    def free_slots(self) -> int:
        """The slots that are nobody's, and not needed for siblings."""
        free = self._slots.count - len(self.live)
        for each in self.filling:
            free -= each.width
        return free

    @property
    def used_tokens(self) -> int:
        """The tokens that slots hold."""
        slots, used = self._slots, 0
        for place in range(len(self.live)):
            used += slots.used(place)
        for each in self.filling:
            used += slots.used(each.slot)
        return used

    @property
    def soon_held_tokens(self) -> int:
        """The tokens that slots hold once all prompts have run, with the next of each that generates."""
        held = 0
        for each in self:
            held += self.soon_held(each)
        return held

    def is_live(self, sequence: Sequence) -> bool:
        """Return whether `sequence` generates."""
        place = sequence.slot
        return 0 <= place < len(self.live) and self.live[place] is sequence

    @property
    def promised_tokens(self) -> int:
        """The tokens that slots may come to hold."""
        promised = 0
        for each in self.filling:
            promised += need(each)
        for each in self.live:
            promised += each.most_tokens
        return promised

    def soon_held(self, sequence: Sequence) -> int:
        """Return the tokens that `sequence` and its siblings hold once the prompt has run, with the next of each."""
        if self.is_live(sequence):
            return self._slots.used(sequence.slot) + 1
        return (len(sequence.prefill) + len(sequence.out) + 1) * sequence.width

    def left(self, sequence: Sequence) -> int:
        """Return the tokens that `sequence`, which is being filled, still gets before it generates."""
        return sequence.fill_tokens - self._slots.used(sequence.slot)

    def begin(self, sequence: Sequence) -> None:
        """Give an empty slot to `sequence`, whose prompt is filled from now on."""
        taken = [each.slot for each in self.filling]
        slot = len(self.live)
        while slot in taken:
            slot += 1
        sequence.slot = slot
        self.filling.append(sequence)

    def turn(self) -> Sequence | None:
        """Return whose prompt runs next: of the most urgent the one with least left, and the oldest as soon as others have had enough."""
        if not self.filling:
            return None
        oldest = min(self.filling, key=_age)
        if self._passed_s >= self._most_passed_s:
            return oldest
        rank = oldest.request.rank
        most_urgent = [each for each in self.filling if each.request.rank == rank]
        return min(most_urgent, key=lambda one: (self.left(one), one.order))

    def ran(self, sequence: Sequence, took_s: float) -> None:
        """Count a piece of the prompt of `sequence`."""
        if sequence is min(self.filling, key=_age):
            self._passed_s = 0.0
        else:
            self._passed_s += took_s

    def join(self, sequence: Sequence) -> tuple[Sequence, ...]:
        """Let `sequence`, whose prompt has run, generate, and its siblings with copies of its slot; return them all."""
        slots, live = self._slots, self.live
        self.filling.remove(sequence)
        self._clear(len(live), len(live) + sequence.width, sequence)
        place, used = len(live), slots.used(sequence.slot)
        if sequence.slot != place:
            slots.copy(sequence.slot, place, used)
            slots.truncate(sequence.slot, 0)
        family = (sequence, *sequence.siblings)
        sequence.siblings = []
        for each in family:
            each.slot = len(live)
            each.cached = sequence.cached
            if each is not sequence:
                each.is_saved = True
                slots.copy(place, each.slot, used)
            live.append(each)
        return family

    def leave(self, sequence: Sequence) -> None:
        """Empty the slot of `sequence`; the last of those that generate moves into the gap."""
        slots, live = self._slots, self.live
        if sequence in self.filling:
            self.filling.remove(sequence)
            slots.truncate(sequence.slot, 0)
            return
        last = live.pop()
        if last is not sequence:
            slots.copy(last.slot, sequence.slot, slots.used(last.slot))
            live[sequence.slot] = last
            last.slot = sequence.slot
        slots.truncate(len(live), 0)

    def withdraw(self, sequence: Sequence) -> None:
        """Take out `sequence` if it is being filled or waits for that; a sibling goes on with the slot."""
        for place, filling in enumerate(self.filling):
            if sequence in filling.siblings:
                filling.siblings.remove(sequence)
                return
            if sequence is not filling:
                continue
            if filling.siblings:
                heir, *rest = filling.siblings
                heir.slot, heir.cached, heir.siblings = filling.slot, filling.cached, rest
                filling.siblings = []
                self.filling[place] = heir
            else:
                self.leave(sequence)
            return

    def clear_live(self) -> None:
        """Empty the slots of all that generate."""
        for place in range(len(self.live)):
            self._slots.truncate(place, 0)
        self.live.clear()

    def has_hurry(self, sequence: Sequence, *, is_held: bool) -> bool:
        """Return whether those who generate need their next tokens while `sequence` is filled.

        Bulk does not, beside people; nor, while `is_held`, do answers that go on here beside another that does: all of them
        paused together, and the longest pause is the shortest if none decodes before all may.
        """
        if sequence.request.is_bulk:
            return bool(self.live)
        is_held = is_held and bool(sequence.request.resumed)
        return any(
            not (each.request.is_bulk or (is_held and each.request.resumed)) for each in self.live
        )

    def replays(self, sequence: Sequence) -> bool:
        """Return whether the prompt of `sequence`, which is being filled, has run, and tokens of its answer are next."""
        return self._slots.used(sequence.slot) >= len(sequence.prefill)

    def replaying(self, sequence: Sequence) -> list[Sequence]:
        """Return those that may go on together: `sequence`, and answers of its rank that go on here, with their prompts still to run or not."""
        rank = sequence.request.rank
        return [
            each
            for each in self.filling
            if each is sequence or (each.replayed and each.request.rank == rank)
        ]

    def bulk_by_loss(self) -> list[Sequence]:
        """Return the bulk ones that generate: first whoever gave way least often, of these who has least to be computed again."""
        return sorted(
            [each for each in self.live if each.request.is_bulk],
            key=lambda one: (one.times_put_back, one.fed, -one.order, -one.choice),
        )

    def filling_behind(self, rank: int) -> list[Sequence]:
        """Return those that are being filled and have a larger rank, the least urgent first."""
        found = [each for each in self.filling if each.request.rank > rank]
        return sorted(found, key=_age, reverse=True)

    def least_urgent(self) -> Sequence:
        """Return the least urgent, the last that came of equal ones; there is one."""
        return max(self, key=lambda one: (one.request.rank, one.order, one.choice))

    def _clear(self, first: int, end: int, joining: Sequence) -> None:
        """Move those that are being filled out of the slots `first` to `end`, where `joining` will be with its siblings."""
        slots = self._slots
        taken = {each.slot for each in self.filling}
        taken.add(joining.slot)
        free = [slot for slot in range(end, slots.count) if slot not in taken]
        for each in self.filling:
            if not first <= each.slot < end:
                continue
            old, used = each.slot, slots.used(each.slot)
            if free:
                each.slot = free.pop()
                slots.copy(old, each.slot, used)
                slots.truncate(old, 0)
                continue
            # all slots behind are taken, one of them by the one that joins: they change places
            count = slots.used(joining.slot)
            block = slots.save(joining.slot, 0, count)
            slots.copy(old, joining.slot, used)
            slots.truncate(old, 0)
            slots.load(old, block, count)
            each.slot, joining.slot = joining.slot, old


def _age(sequence: Sequence) -> tuple[int, int]:
    """Return by what the oldest of the most urgent is the least."""
    return sequence.request.rank, sequence.order
