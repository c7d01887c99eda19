"""Fills slots with what was computed before: kept prefixes, and what other sequences have in their slots. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from typing import Final

from typing_extensions import override

from capamesh.node.generation.prefixes import BLOCK, Prefixes, common
from capamesh.node.generation.sequence import Sequence
from capamesh.node.generation.slots import Logits, Slots

_LEFT: Final = 2
"""The fewest tokens of a prompt that are run where its scores are not kept: a run of one rounds otherwise than one of several."""


class Reuse:
    """Keeps what one model need not compute again, and finds it. Whatever is reused has the bits that a run would give."""

    def __init__(self, slots: Slots, prefix_bytes: int) -> None:
        self._slots = slots
        self._prefix_bytes = prefix_bytes
        self._prefixes = Prefixes(prefix_bytes, slots.token_bytes)
        self.hit_tokens = 0
        """Tokens of prompts that did not have to run."""

    @override
    def __repr__(self) -> str:
        return f"Reuse({len(self._prefixes)} blocks, {self.hit_tokens} tokens hit)"

    @property
    def size_bytes(self) -> int:
        """The bytes of kept prefixes."""
        return self._prefixes.size_bytes

    def forget(self) -> None:
        """Let go of all that is kept."""
        self._prefixes = Prefixes(self._prefix_bytes, self._slots.token_bytes)

    def is_led(self, sequence: Sequence, filling: SequenceOf[Sequence]) -> bool:
        """Return whether one of `filling` will have run a beginning that `sequence` need not run itself then."""
        slots, leader = self._slots, sequence.leader
        if leader is not None and leader in filling:
            return slots.used(leader.slot) < sequence.shared
        sequence.leader = None
        request = sequence.request
        for each in filling:
            if each.request.tenant != request.tenant or each.request.rank > request.rank:
                continue
            shared = min(common(each.prefill, sequence.prefill), len(sequence.prefill) - _LEFT)
            if shared - slots.used(each.slot) >= BLOCK:
                sequence.leader, sequence.shared = each, shared
                return True
        return False

    def restore(self, sequence: Sequence, residents: Iterable[Sequence]) -> Logits | None:
        """Fill the slot of `sequence` with the longest beginning of its prompt that is kept, or that one of `residents` has.

        Return the scores behind the prompt, in the shape [vocabulary], if all of it is kept with them: then there is nothing to run.
        """
        slots, request = self._slots, sequence.request
        most = max(0, len(sequence.prefill) - _LEFT)
        match = self._prefixes.match(request.tenant, sequence.prefill, most)
        count, source = match.count, None
        for each in residents:
            if each.request.tenant == request.tenant and len(each.prefill) > 1:
                has = min(slots.used(each.slot), most)
                if has <= count:
                    continue
                shared = min(common(each.prefill, sequence.prefill), has)
                if shared > count:
                    count, source = shared, each
        if source is None:
            match.load(slots, sequence.slot)
        else:
            slots.copy(source.slot, sequence.slot, count)
        sequence.cached = min(count, len(request.prompt))
        sequence.is_saved = match.scores is not None
        sequence.leader = None
        self.hit_tokens += count
        return match.scores

    def hold(self, sequence: Sequence, scores: Logits) -> None:
        """Have the scores behind the prompt of `sequence`, in the shape [vocabulary], kept with it once it is saved; they may change after this."""
        if not sequence.is_saved:
            sequence.scores = scores.copy()

    def save_prompt(self, sequence: Sequence) -> None:
        """Keep the prompt of `sequence`, which its slot holds, unless that was done."""
        if not sequence.is_saved:
            sequence.is_saved = True
            scores, sequence.scores = sequence.scores, None
            self.save(sequence, len(sequence.prefill), scores)

    def save(self, sequence: Sequence, count: int, scores: Logits | None = None) -> None:
        """Keep the first `count` tokens of what `sequence` has in its slot, with the `scores` behind them in the shape [vocabulary]."""
        if len(sequence.prefill) > 1:  # a prompt of one token was run as nothing longer is
            tokens = [*sequence.prefill, *sequence.out][:count]
            self._prefixes.save(sequence.request.tenant, tokens, self._slots, sequence.slot, scores)
