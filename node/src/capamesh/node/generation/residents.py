"""The sequences that have slots, and the moves that keep their slots dense. Pure.

Those that generate have the slots 0 to B-1, as a decoding step runs a range of slots. The one whose prompt is being filled has any
slot behind them, and comes to the place B once its prompt has run.
"""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import override

from capamesh.node.generation.sequence import Sequence
from capamesh.node.generation.slots import Slots
from capamesh.node.generation.waiting import need


class Residents:
    """The sequences with slots: at most as many as there are."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.live: list[Sequence] = []
        """The sequences that generate, each in the slot of its place here; some may have ended since the last step."""
        self.filling: Sequence | None = None
        """The one whose prompt is being filled; its siblings wait for it without slots, which are free for them."""

    @override
    def __repr__(self) -> str:
        return f"Residents({len(self.live)} live, filling {self.filling!r})"

    def __iter__(self) -> Iterator[Sequence]:
        """Yield those that have slots, and no siblings."""
        yield from self.live
        if self.filling is not None:
            yield self.filling

    @property
    def free_slots(self) -> int:
        """The slots that are nobody's, and not needed for siblings."""
        filling = self.filling
        return self._slots.count - len(self.live) - (0 if filling is None else filling.width)

    @property
    def fill_left(self) -> int:
        """The tokens of the prompt that is being filled which are still to be run."""
        filling = self.filling
        return 0 if filling is None else len(filling.prefill) - self._slots.used(filling.slot)

    @property
    def used_tokens(self) -> int:
        """The tokens that slots hold."""
        slots = self._slots
        used = 0 if self.filling is None else slots.used(self.filling.slot)
        for place in range(len(self.live)):
            used += slots.used(place)
        return used

    @property
    def promised_tokens(self) -> int:
        """The tokens that slots may come to hold."""
        promised = 0 if self.filling is None else need(self.filling)
        for each in self.live:
            promised += each.most_tokens
        return promised

    def begin(self, sequence: Sequence) -> None:
        """Give an empty slot to `sequence`, whose prompt is filled from now on."""
        sequence.slot = len(self.live)
        self.filling = sequence

    def join(self) -> tuple[Sequence, ...]:
        """Let the one that was filled generate, and its siblings with copies of its slot; return them all."""
        sequence = self.filling
        if sequence is None:
            return ()
        slots, live = self._slots, self.live
        self.filling = None
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
        if sequence is self.filling:
            self.filling = None
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
        filling = self.filling
        if filling is None:
            return
        if sequence in filling.siblings:
            filling.siblings.remove(sequence)
        elif sequence is filling and filling.siblings:
            heir, *rest = filling.siblings
            heir.slot, heir.cached, heir.siblings = filling.slot, filling.cached, rest
            filling.siblings = []
            self.filling = heir
        elif sequence is filling:
            self.leave(sequence)

    def clear_live(self) -> None:
        """Empty the slots of all that generate."""
        for place in range(len(self.live)):
            self._slots.truncate(place, 0)
        self.live.clear()

    @property
    def serves_people(self) -> bool:
        """Return whether any that generates is not bulk."""
        return any(not each.request.is_bulk for each in self.live)

    def bulk_by_loss(self) -> list[Sequence]:
        """Return the bulk ones that generate: first whoever gave way least often, of these who has least to be computed again."""
        return sorted(
            [each for each in self.live if each.request.is_bulk],
            key=lambda one: (one.times_put_back, one.fed, -one.order, -one.choice),
        )

    def least_urgent(self) -> Sequence:
        """Return the least urgent, the last that came of equal ones; there is one."""
        return max(self, key=lambda one: (one.request.rank, one.order, one.choice))
