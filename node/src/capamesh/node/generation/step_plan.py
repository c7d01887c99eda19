"""One run of the model, as the engine plans it. Pure."""

from __future__ import annotations

from capamesh.node.generation.sequence import NO_SLOT, Constraint, Sequence
from capamesh.node.generation.slots import Logits, Slots


class StepPlan:
    """One run of the model: a token for each sequence that generates, or a chunk of one prompt."""

    __slots__ = ("sequences", "slot", "tokens", "wants_logits")

    def __init__(
        self, sequences: tuple[Sequence, ...], slot: int, tokens: list[int], *, wants_logits: bool
    ) -> None:
        self.sequences = sequences
        """The sequences that run, in the order of their slots; the one that is filled comes first, then its siblings."""
        self.slot = slot
        """The slot that is filled; `NO_SLOT` where sequences get a token each."""
        self.tokens = tokens
        """The tokens to run: one of each sequence, or those of the chunk."""
        self.wants_logits = wants_logits
        """True if a token is drawn from the scores."""

    @property
    def is_decode(self) -> bool:
        """Return whether sequences get a token each; else a prompt is filled."""
        return self.slot == NO_SLOT

    def run(self, slots: Slots) -> Logits | None:
        """Run the model; return scores in the shape [sequences, vocabulary], of a chunk [vocabulary] or None.

        Raises `RunFailed`: the model did not run.
        """
        if self.is_decode:
            return slots.decode(self.tokens)
        return slots.extend(self.slot, self.tokens, wants_logits=self.wants_logits)

    def constraints(self) -> list[Constraint]:
        """Return the grammars of which the mask is needed after the run, and can be made during it."""
        if not self.wants_logits:
            return []
        ahead = 1 if self.is_decode else 0
        return [
            each.constraint
            for each in self.sequences
            if each.constraint is not None and each.fed + ahead == len(each.out)
        ]
