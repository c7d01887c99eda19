"""Plans the step of those who generate, and takes what it gives: a token of each, or several of one whose next tokens were guessed. Pure.

What a sequence runs, its next token in the common run or a draft alone, is a matter of its own tokens, so that its answer is the same whoever
is beside it. When a draft runs is not: of many that have one, few run in a step, in turn, for the others wait meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Final

from typing_extensions import override

from capamesh.node.generation.answering import answer, answer_draft
from capamesh.node.generation.lookup import Lookup
from capamesh.node.generation.sequence import NO_SLOT, Sequence, SequencePart
from capamesh.node.generation.shares import TenantShares
from capamesh.node.generation.slots import Logits, Slots
from capamesh.node.generation.step_plan import Piece, StepPlan

MOST_DRAFTS: Final = 2
"""The most drafts of a step (guess: each takes as long as a step without any)."""


class Decoding:
    """The steps of one model's sequences that generate."""

    __slots__ = ("_most", "_shares", "_slots", "_turn", "accepted", "drafted", "fed")

    def __init__(self, slots: Slots, shares: TenantShares, lookup_tokens: int) -> None:
        """Guess at most `lookup_tokens` of a sequence; the time of each step is charged to `shares`."""
        self._slots = slots
        self._shares = shares
        self._most = lookup_tokens if slots.scores_each else 0
        self._turn = 0
        self.fed = 0
        """Tokens that the last step has fed."""
        self.drafted = 0
        """Tokens that were guessed and run."""
        self.accepted = 0
        """Tokens of these that were drawn, too."""

    @override
    def __repr__(self) -> str:
        return f"Decoding({self.accepted} of {self.drafted} guessed tokens accepted)"

    def may_guess(self, sequence: Sequence) -> bool:
        """Return whether tokens of `sequence` are guessed while it generates; of one that follows a grammar none are."""
        return self._most > 0 and sequence.constraint is None

    def begin(self, sequence: Sequence) -> None:
        """Guess the tokens of `sequence`, which generates from now on, if they may be."""
        if self.may_guess(sequence):
            sequence.lookup = Lookup(sequence.request.prompt, sequence.most_tokens)

    def plan(self, live: SequenceOf[Sequence]) -> StepPlan | None:
        """Return the step of `live`, each in the slot of its place; None if there are none."""
        if not live:
            return None
        tokens = [each.out[each.fed] for each in live]
        drafts: list[Piece] = []
        if self._most:
            drafts = self._drafts(live)
        if not drafts:
            return StepPlan(tuple(live), NO_SLOT, tokens, wants_logits=True)
        aside = {each.sequence.slot for each in drafts}
        rows = len(live)
        while rows and rows - 1 in aside:
            rows -= 1
        drafts.sort(key=_turn)
        del drafts[MOST_DRAFTS:]
        self._turn += 1
        for each in drafts:
            if each.sequence.lookup is not None:
                each.sequence.lookup.turn = self._turn
        return StepPlan(
            tuple(live),
            NO_SLOT,
            tokens[:rows],
            wants_logits=True,
            drafts=tuple(drafts),
            aside=frozenset([place for place in aside if place < rows]),
        )

    def take(self, plan: StepPlan, logits: Logits | None, took_s: float) -> list[SequencePart]:
        """Return what the sequences of `plan` were given by a run that took `took_s`, of the `logits` that `StepPlan.run` tells."""
        parts: list[SequencePart] = []
        aside, rows = plan.aside, len(plan.tokens)
        run_s = took_s / (len(plan.drafts) + (1 if rows else 0))
        row_s = run_s / max(1, rows - len(aside))
        for place in range(rows):
            if place in aside:
                continue
            sequence = plan.sequences[place]
            self._shares.charge(sequence.request.client, row_s)
            sequence.fed += 1
            if logits is not None and sequence.wants_token and not sequence.is_ended:
                parts.append(SequencePart(sequence, answer(sequence, logits[place])))
        self.fed = rows - len(aside)
        for draft in plan.drafts:
            sequence = draft.sequence
            self._shares.charge(sequence.request.client, run_s)
            before = sequence.fed
            for part in answer_draft(draft):
                parts.append(SequencePart(sequence, part))  # noqa: PERF401 - as the loop above
            self._slots.truncate(sequence.slot, sequence.held)
            fed = sequence.fed - before
            self.fed += fed
            self.drafted += len(draft.tokens) - 1
            self.accepted += max(0, fed - 1)
        return parts

    def _drafts(self, live: SequenceOf[Sequence]) -> list[Piece]:
        """Return the drafts of all of `live` that have one."""
        drafts: list[Piece] = []
        for each in live:
            if each.lookup is not None:
                guessed = each.lookup.draft(each.out, each.fed, self._most)
                if guessed:
                    drafts.append(Piece(each, [each.out[each.fed], *guessed]))
        return drafts


def _turn(draft: Piece) -> int:
    lookup = draft.sequence.lookup
    return lookup.turn if lookup is not None else 0
