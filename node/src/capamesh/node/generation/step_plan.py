"""One run of the model, as the engine plans it. Pure."""

from __future__ import annotations

from capamesh.node.generation.sequence import NO_SLOT, Constraint, Sequence
from capamesh.node.generation.slots import Logits, Slots


class Piece:
    """Tokens of one sequence that run together: known ones of its answer, or its next one and those that are guessed to follow."""

    __slots__ = ("scores", "sequence", "tokens")

    def __init__(self, sequence: Sequence, tokens: list[int]) -> None:
        self.sequence = sequence
        self.tokens = tokens
        self.scores: Logits | None = None
        """Once they have run, the scores behind each of the tokens of a draft in the shape [tokens, vocabulary], of a replay behind the last in the shape [vocabulary]."""


class StepPlan:
    """One run of the model: a token for each sequence that generates, several of one that is filled, or known ones of answers that go on.

    Those who generate may have drafts instead, each of which is a run of its own in the same step.
    """

    __slots__ = ("aside", "drafts", "replays", "sequences", "slot", "tokens", "wants_logits")

    def __init__(
        self,
        sequences: tuple[Sequence, ...],
        slot: int,
        tokens: list[int],
        *,
        wants_logits: bool,
        replays: tuple[Piece, ...] = (),
        drafts: tuple[Piece, ...] = (),
        aside: frozenset[int] = frozenset(),
    ) -> None:
        self.sequences = sequences
        """The sequences that run, in the order of their slots; the one that is filled comes first, then its siblings."""
        self.slot = slot
        """The slot that is filled; `NO_SLOT` where sequences get a token each, or replay."""
        self.tokens = tokens
        """The tokens to run: one of each sequence, or those of the chunk. Sequences behind the last of which a token is run have none."""
        self.wants_logits = wants_logits
        """True if a token is drawn from the scores."""
        self.replays = replays
        """The known tokens of answers that run, all in one run; then nothing else does."""
        self.drafts = drafts
        """The drafts that are run behind the tokens."""
        self.aside = aside
        """The places of sequences whose token runs in vain, for that of one behind them runs: they have a draft, in this step or a later one."""

    @property
    def is_decode(self) -> bool:
        """Return whether sequences get a token each; else a prompt is filled."""
        return self.slot == NO_SLOT and not self.replays

    @property
    def size(self) -> int:
        """The most tokens that slots hold at any time of it beside those that they held."""
        rows = len(self.tokens)
        size = rows - len(self.aside)
        for each in self.drafts:
            size += len(each.tokens)
        return max(rows, size)

    def run(self, slots: Slots) -> Logits | None:
        """Run the model; return scores in the shape [tokens, vocabulary], of a chunk [vocabulary] or None. Drafts get theirs.

        Raises `RunFailed`: the model did not run.
        """
        if self.replays:
            pieces = [(each.sequence.slot, each.tokens) for each in self.replays]
            found = slots.replay(pieces, wants_logits=self.wants_logits)
            if found is not None:
                for at, each in enumerate(self.replays):
                    each.scores = found[at]
            return None
        if not self.is_decode:
            return slots.extend(self.slot, self.tokens, wants_logits=self.wants_logits)
        logits = slots.decode(self.tokens) if self.tokens else None
        for place in self.aside:
            slots.truncate(place, slots.used(place) - 1)
        for each in self.drafts:
            each.scores = slots.score(each.sequence.slot, each.tokens)
        return logits

    def constraints(self) -> list[Constraint]:
        """Return the grammars of which the mask is needed after the run, and can be made during it."""
        if not self.wants_logits:
            return []
        ahead = {id(each.sequence): len(each.tokens) for each in self.replays}
        other = 1 if self.is_decode else 0
        return [
            each.constraint
            for each in self.sequences
            if each.constraint is not None
            and each.fed + ahead.get(id(each), other) == len(each.out)
        ]
